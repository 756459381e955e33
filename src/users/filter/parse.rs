//! Checks a filter as it came over the wire and says where it is wrong.

use serde_json::{Map, Value};

use super::{Field, Node, Operand, Test};
use crate::clock::Time;
use crate::users::fold::fold;
use crate::users::{Role, Status};

/// The most nodes of a filter: every combinator and every comparison counts one.
pub const MAX_NODES: usize = 64;
/// The deepest nesting of filter objects; the outermost is at depth 1.
pub const MAX_DEPTH: usize = 8;
/// The most values of one `in`.
pub const IN_MAX_VALUES: usize = 100;

/// The most bytes that the values of a filter may take together, each counted as its folded text and `VALUE_BYTES`.
pub const VALUES_MAX_BYTES: usize = 8 << 10;
/// What a value takes beside its text.
const VALUE_BYTES: usize = size_of::<Operand>();

/// Why a filter was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct FilterError {
    /// Where, e.g. `filter.or[1].role.eq`.
    pub path: String,
    /// A stable word: `unknown_field`, `unknown_operator`, `type`, `value`, `count`, `depth`, `nodes`, `bytes`.
    pub rule: &'static str,
    /// What the caller can change.
    pub message: String,
}

/// The tree, and where it first names a private field.
pub(super) fn parse(value: &Value) -> Result<(Node, Option<String>), FilterError> {
    let mut parser = Parser { nodes: 0, bytes: 0, private_path: None };
    let root = parser.object(value, "filter", 1)?;
    Ok((root, parser.private_path))
}

struct Parser {
    nodes: usize,
    bytes: usize,
    private_path: Option<String>,
}

impl Parser {
    fn object(&mut self, value: &Value, path: &str, depth: usize) -> Result<Node, FilterError> {
        let members = as_object(value, path)?;
        if depth > MAX_DEPTH {
            return refuse(path, "depth", format!("must not be nested deeper than {MAX_DEPTH}"));
        }
        let mut nodes = Vec::new();
        for (name, value) in members {
            let path = format!("{path}.{name}");
            match name.as_str() {
                "and" => nodes.push(Node::And(self.list(value, &path, depth)?)),
                "or" => nodes.push(Node::Or(self.list(value, &path, depth)?)),
                "not" => {
                    self.count(&path)?;
                    nodes.push(Node::Not(Box::new(self.object(value, &path, depth + 1)?)));
                }
                _ => self.tests(field(name, &path)?, value, &path, &mut nodes)?,
            }
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::And(nodes) })
    }

    fn list(&mut self, value: &Value, path: &str, depth: usize) -> Result<Vec<Node>, FilterError> {
        self.count(path)?;
        let values = value.as_array().filter(|values| !values.is_empty());
        let Some(values) = values else {
            return refuse(path, "type", "must be an array of at least one filter");
        };
        values.iter().enumerate().map(|(at, value)| self.object(value, &format!("{path}[{at}]"), depth + 1)).collect()
    }

    fn tests(&mut self, field: Field, value: &Value, path: &str, nodes: &mut Vec<Node>) -> Result<(), FilterError> {
        if field == Field::Email && self.private_path.is_none() {
            self.private_path = Some(path.to_owned());
        }
        for (operator, value) in as_object(value, path)? {
            let path = format!("{path}.{operator}");
            self.count(&path)?;
            let test = test(field, operator, value, &path)?;
            self.weigh(&test, &path)?;
            nodes.push(Node::Test(field, test));
        }
        Ok(())
    }

    /// A filter is kept for as long as its subscription: what it takes is bounded, whatever the message limit is.
    fn weigh(&mut self, test: &Test, path: &str) -> Result<(), FilterError> {
        self.bytes += bytes_of(test);
        if self.bytes > VALUES_MAX_BYTES {
            return refuse(
                path,
                "bytes",
                format!("has values that take more than {VALUES_MAX_BYTES} bytes with those before"),
            );
        }
        Ok(())
    }

    fn count(&mut self, path: &str) -> Result<(), FilterError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return refuse(path, "nodes", format!("must have at most {MAX_NODES} comparisons and combinators"));
        }
        Ok(())
    }
}

/// What the values of a comparison take.
fn bytes_of(test: &Test) -> usize {
    let of = |operand: &Operand| match operand {
        Operand::Text(text) => VALUE_BYTES + text.len(),
        Operand::Number(_) => VALUE_BYTES,
    };
    match test {
        Test::In(operands) => operands.iter().map(of).sum(),
        Test::Prefix(text) => VALUE_BYTES + text.len(),
        Test::Exists(_) => 0,
        Test::Eq(operand)
        | Test::Ne(operand)
        | Test::Gt(operand)
        | Test::Gte(operand)
        | Test::Lt(operand)
        | Test::Lte(operand) => of(operand),
    }
}

fn field(name: &str, path: &str) -> Result<Field, FilterError> {
    Ok(match name {
        "username" => Field::Username,
        "display_name" => Field::DisplayName,
        "email" => Field::Email,
        "status" => Field::Status,
        "role" => Field::Role,
        "created_at" => Field::CreatedAt,
        "updated_at" => Field::UpdatedAt,
        "rev" => Field::Rev,
        _ => return refuse(path, "unknown_field", "is not a field or combinator of filters"),
    })
}

fn test(field: Field, operator: &str, value: &Value, path: &str) -> Result<Test, FilterError> {
    let is_word = matches!(field, Field::Status | Field::Role);
    let is_text = matches!(field, Field::Username | Field::DisplayName | Field::Email);
    Ok(match operator {
        "eq" => Test::Eq(operand(field, value, path)?),
        "ne" => Test::Ne(operand(field, value, path)?),
        "in" => Test::In(operands(field, value, path)?),
        "exists" => match value {
            Value::Bool(exists) => Test::Exists(*exists),
            _ => return refuse(path, "type", "must be true or false"),
        },
        "prefix" if is_text => Test::Prefix(fold(as_text(value, path)?)),
        "gt" if !is_word => Test::Gt(operand(field, value, path)?),
        "gte" if !is_word => Test::Gte(operand(field, value, path)?),
        "lt" if !is_word => Test::Lt(operand(field, value, path)?),
        "lte" if !is_word => Test::Lte(operand(field, value, path)?),
        _ => return refuse(path, "unknown_operator", "is not an operator of this field"),
    })
}

fn operands(field: Field, value: &Value, path: &str) -> Result<Vec<Operand>, FilterError> {
    let Some(values) = value.as_array() else {
        return refuse(path, "type", "must be an array");
    };
    if !(1..=IN_MAX_VALUES).contains(&values.len()) {
        return refuse(path, "count", format!("must have 1 to {IN_MAX_VALUES} values"));
    }
    values.iter().enumerate().map(|(at, value)| operand(field, value, &format!("{path}[{at}]"))).collect()
}

fn operand(field: Field, value: &Value, path: &str) -> Result<Operand, FilterError> {
    Ok(match field {
        Field::Username | Field::DisplayName | Field::Email => Operand::Text(fold(as_text(value, path)?)),
        Field::Status => match Status::parse(as_text(value, path)?) {
            Some(status) => Operand::Text(status.as_str().to_owned()),
            None => return refuse(path, "value", "must be active, deactivated or erased"),
        },
        Field::Role => match Role::parse(as_text(value, path)?) {
            Some(role) => Operand::Text(role.as_str().to_owned()),
            None => return refuse(path, "value", "must be user or admin"),
        },
        Field::CreatedAt | Field::UpdatedAt => match Time::parse(as_text(value, path)?) {
            Some(time) => Operand::Number(time.ms()),
            None => return refuse(path, "value", "must be a time as in RFC 3339"),
        },
        Field::Rev => match value.as_i64() {
            Some(number) => Operand::Number(number),
            None => return refuse(path, "type", "must be an integer"),
        },
    })
}

fn as_object<'a>(value: &'a Value, path: &str) -> Result<&'a Map<String, Value>, FilterError> {
    value.as_object().map_or_else(|| refuse(path, "type", "must be an object"), Ok)
}

fn as_text<'a>(value: &'a Value, path: &str) -> Result<&'a str, FilterError> {
    value.as_str().map_or_else(|| refuse(path, "type", "must be a string"), Ok)
}

fn refuse<T>(path: &str, rule: &'static str, message: impl Into<String>) -> Result<T, FilterError> {
    Err(FilterError { path: path.to_owned(), rule, message: message.into() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::Filter;
    use super::*;

    #[test]
    fn a_wrong_filter_is_refused_with_the_path_of_the_fault() {
        for (filter, path, rule) in [
            (json!([]), "filter", "type"),
            (json!({"password": {"eq": "x"}}), "filter.password", "unknown_field"),
            (json!({"role": "admin"}), "filter.role", "type"),
            (json!({"role": {"gt": "user"}}), "filter.role.gt", "unknown_operator"),
            (json!({"role": {"like": "user"}}), "filter.role.like", "unknown_operator"),
            (json!({"rev": {"prefix": "1"}}), "filter.rev.prefix", "unknown_operator"),
            (json!({"or": [{}, {"role": {"eq": "root"}}]}), "filter.or[1].role.eq", "value"),
            (json!({"status": {"in": ["active", 1]}}), "filter.status.in[1]", "type"),
            (json!({"status": {"in": []}}), "filter.status.in", "count"),
            (json!({"rev": {"in": vec![1; 101]}}), "filter.rev.in", "count"),
            (json!({"rev": {"eq": 1.5}}), "filter.rev.eq", "type"),
            (json!({"rev": {"eq": u64::MAX}}), "filter.rev.eq", "type"),
            (json!({"created_at": {"gte": "yesterday"}}), "filter.created_at.gte", "value"),
            (json!({"created_at": {"gte": 0}}), "filter.created_at.gte", "type"),
            (json!({"email": {"eq": null}}), "filter.email.eq", "type"),
            (json!({"email": {"exists": 1}}), "filter.email.exists", "type"),
            (json!({"and": {}}), "filter.and", "type"),
            (json!({"or": []}), "filter.or", "type"),
            (json!({"not": [{}]}), "filter.not", "type"),
        ] {
            let error = Filter::parse(&filter).unwrap_err();
            assert_eq!((error.path.as_str(), error.rule), (path, rule), "{filter}");
        }
    }

    #[test]
    fn a_filter_has_at_most_64_nodes_and_depth_8() {
        let wide = |comparisons: usize| json!({"or": vec![json!({"rev": {"eq": 1}}); comparisons]});
        assert!(Filter::parse(&wide(63)).is_ok());
        assert_eq!(Filter::parse(&wide(64)).unwrap_err().rule, "nodes");

        let deep = |depth: usize| (1..depth).fold(json!({}), |inner, _| json!({"not": inner}));
        assert!(Filter::parse(&deep(8)).is_ok());
        assert_eq!(Filter::parse(&deep(9)).unwrap_err().rule, "depth");
    }

    #[test]
    fn the_values_of_a_filter_have_at_most_8_kib() {
        // 24 bytes each and 40 of text.
        let names = |count: usize| json!({"username": {"in": vec!["x".repeat(40); count]}});
        assert!(Filter::parse(&json!({"or": [names(64), names(64)]})).is_ok());
        let error = Filter::parse(&json!({"or": [names(64), names(65)]})).unwrap_err();
        assert_eq!((error.path.as_str(), error.rule), ("filter.or[1].username.in", "bytes"));
        for operator in ["eq", "ne", "prefix", "gt", "gte", "lt", "lte"] {
            let long = json!({"email": {operator: "x".repeat(8192)}});
            assert_eq!(Filter::parse(&long).unwrap_err().rule, "bytes", "{operator}");
        }
        // Folding makes three letters of this one, and what is kept is what counts.
        assert_eq!(Filter::parse(&json!({"display_name": {"eq": "\u{fb03}".repeat(2800)}})).unwrap_err().rule, "bytes");
        let numbers = json!({"or": vec![json!({"rev": {"in": vec![1; 100]}}); 4]});
        assert_eq!(Filter::parse(&numbers).unwrap_err().path, "filter.or[3].rev.in");
    }

    /// Any JSON that could be mistaken for a filter.
    fn nearly_a_filter() -> impl Strategy<Value = Value> {
        let word = prop::sample::select(vec!["and", "or", "not", "email", "rev", "role", "eq", "in", "prefix", "x"]);
        let leaf =
            prop_oneof![Just(json!(null)), any::<i64>().prop_map(|n| json!(n)), word.clone().prop_map(|w| json!(w))];
        leaf.prop_recursive(6, 48, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::vec((word.clone(), inner), 0..4)
                    .prop_map(|members| members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_json_is_a_filter_or_refused_at_a_path(value in nearly_a_filter()) {
            if let Err(error) = Filter::parse(&value) {
                prop_assert!(error.path.starts_with("filter"));
            }
        }
    }
}
