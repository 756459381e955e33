//! Reading of structs by name only. serde's derived structs also take an array of their fields in order, so that a
//! change of that order would change what such a message means; here an array in the place of a struct is refused,
//! at any depth and for every type.
//!
//! Sees what a type asks of its deserializer. `#[serde(flatten)]`, `untagged` and `tag` ask for anything instead: no
//! type of params uses them.

use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor,
};

/// A deserializer, a visitor, a seed or an access to members, closed as are all that come out of it.
pub struct Closed<T>(pub T);

/// The visitor of a struct.
struct Struct<V>(V);

/// Methods that hand the visitor on, closed.
macro_rules! forward {
    ($($method:ident($($argument:ident: $type:ty),*))*) => {
        $(fn $method<V: Visitor<'de>>(self, $($argument: $type,)* visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method($($argument,)* Closed(visitor))
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Closed<D> {
    type Error = D::Error;

    forward! {
        deserialize_any() deserialize_bool() deserialize_i8() deserialize_i16() deserialize_i32() deserialize_i64()
        deserialize_i128() deserialize_u8() deserialize_u16() deserialize_u32() deserialize_u64() deserialize_u128()
        deserialize_f32() deserialize_f64() deserialize_char() deserialize_str() deserialize_string()
        deserialize_bytes() deserialize_byte_buf() deserialize_option() deserialize_unit() deserialize_seq()
        deserialize_map() deserialize_identifier() deserialize_ignored_any()
        deserialize_unit_struct(name: &'static str) deserialize_newtype_struct(name: &'static str)
        deserialize_tuple(len: usize) deserialize_tuple_struct(name: &'static str, len: usize)
        deserialize_enum(name: &'static str, variants: &'static [&'static str])
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_struct(name, fields, Struct(visitor))
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

/// Methods that hand a value on.
macro_rules! visit {
    ($($method:ident($type:ty))*) => {
        $(fn $method<E: Error>(self, value: $type) -> Result<V::Value, E> {
            self.0.$method(value)
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Closed<V> {
    type Value = V::Value;

    visit! {
        visit_bool(bool) visit_i64(i64) visit_i128(i128) visit_u64(u64) visit_u128(u128) visit_f64(f64) visit_char(char)
        visit_str(&str) visit_borrowed_str(&'de str) visit_string(String) visit_bytes(&[u8])
        visit_borrowed_bytes(&'de [u8]) visit_byte_buf(Vec<u8>)
    }

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }
    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_none()
    }
    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_unit()
    }
    fn visit_some<D: Deserializer<'de>>(self, value: D) -> Result<V::Value, D::Error> {
        self.0.visit_some(Closed(value))
    }
    fn visit_newtype_struct<D: Deserializer<'de>>(self, value: D) -> Result<V::Value, D::Error> {
        self.0.visit_newtype_struct(Closed(value))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, values: A) -> Result<V::Value, A::Error> {
        self.0.visit_seq(Closed(values))
    }
    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(Closed(members))
    }
    fn visit_enum<A: EnumAccess<'de>>(self, variant: A) -> Result<V::Value, A::Error> {
        self.0.visit_enum(Closed(variant))
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Struct<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<V::Value, A::Error> {
        Err(A::Error::invalid_type(Unexpected::Seq, &self))
    }
    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(Closed(members))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Closed<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Closed(deserializer))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Closed<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_element_seed(Closed(seed))
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Closed<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_key_seed(Closed(seed))
    }
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.0.next_value_seed(Closed(seed))
    }
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for Closed<A> {
    type Error = A::Error;
    type Variant = Closed<A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self::Variant), A::Error> {
        let (name, variant) = self.0.variant_seed(seed)?;
        Ok((name, Closed(variant)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Closed<A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.0.unit_variant()
    }
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.0.newtype_variant_seed(Closed(seed))
    }
    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.0.tuple_variant(len, Closed(visitor))
    }
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.0.struct_variant(fields, Struct(visitor))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::value::RawValue;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Point {
        x: u8,
        y: u8,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    enum Shape {
        Dot,
        At(Point),
        Box { corner: Point },
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Wrapped(Option<Point>);

    fn reads<T: for<'de> Deserialize<'de>>(text: &str) -> bool {
        T::deserialize(Closed(&mut serde_json::Deserializer::from_str(text))).is_ok()
    }

    #[test]
    fn an_array_is_no_struct_at_any_depth() {
        let (object, array) = (r#"{"x":1,"y":2}"#, "[1,2]");
        type Reads = fn(&str) -> bool;
        let around: [(Reads, &str); 8] = [
            (reads::<Point>, "@"),
            (reads::<Option<Point>>, "@"),
            (reads::<Wrapped>, "@"),
            (reads::<Vec<Point>>, "[@]"),
            (reads::<(u8, Point)>, "[1,@]"),
            (reads::<BTreeMap<String, Vec<Option<Point>>>>, r#"{"a":[null,@]}"#),
            (reads::<Shape>, r#"{"At":@}"#),
            (reads::<Shape>, r#"{"Box":{"corner":@}}"#),
        ];
        for (reads, text) in around {
            assert!(reads(&text.replace('@', object)), "{text}");
            assert!(!reads(&text.replace('@', array)), "{text}");
        }
        assert!(!reads::<Shape>(&format!(r#"{{"Box":[{object}]}}"#)));
        assert!(reads::<Shape>(r#""Dot""#) && reads::<Box<RawValue>>(array) && reads::<Option<Point>>("null"));
    }
}
