//! The filter: a closed tree of comparisons, from which a store makes its query and the feed its matcher.
//!
//! It never carries a store's own query language, and what it does not know it refuses.

use serde::Serialize;
use serde_json::Value;

use super::fold::fold;
use super::{Role, Status, User};
use crate::clock::Time;

mod parse;

pub use parse::{FilterError, IN_MAX_VALUES, MAX_DEPTH, MAX_NODES, VALUES_MAX_BYTES};

/// A filter that has passed its checks.
///
/// Serialised, it is the same text for the same filter, so that a cursor can be bound to it by a hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Filter {
    root: Node,
    #[serde(skip)]
    private_path: Option<String>,
}

/// A part of the tree. `And` of nothing is true.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Node {
    /// All of them hold.
    And(Vec<Node>),
    /// At least one of them holds.
    Or(Vec<Node>),
    /// It does not hold.
    Not(Box<Node>),
    /// A field is compared.
    Test(Field, Test),
}

/// A field that can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// Text.
    Username,
    /// Text.
    DisplayName,
    /// Text, private, null once erased.
    Email,
    /// One of its words.
    Status,
    /// One of its words.
    Role,
    /// A time.
    CreatedAt,
    /// A time.
    UpdatedAt,
    /// An integer.
    Rev,
}

impl Field {
    /// Whether a user may lack it.
    pub fn is_nullable(self) -> bool {
        self == Self::Email
    }
}

/// What is asked of a field. With null, `Ne` and `Exists(false)` are true and everything else is false.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// Equal.
    Eq(Operand),
    /// Not equal, or null.
    Ne(Operand),
    /// Equal to one of these; never empty.
    In(Vec<Operand>),
    /// Text that begins with this folded text.
    Prefix(String),
    /// Greater.
    Gt(Operand),
    /// Greater or equal.
    Gte(Operand),
    /// Less.
    Lt(Operand),
    /// Less or equal.
    Lte(Operand),
    /// Not null if true, null if false.
    Exists(bool),
}

/// A value to compare with: of the kind of its field.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub enum Operand {
    /// Folded text, ordered by code points; or the word of a status or role.
    Text(String),
    /// A time in milliseconds since 1970, or an integer.
    Number(i64),
}

/// The comparable fields of one state of a user, texts folded: made once, asked by many filters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Folded.
    pub username: String,
    /// Folded.
    pub display_name: String,
    /// Folded, or null.
    pub email: Option<String>,
    /// Whether the account can be used.
    pub status: Status,
    /// What the account may do.
    pub role: Role,
    /// When the user was created.
    pub created_at: Time,
    /// When this state was written.
    pub updated_at: Time,
    /// The revision of this state.
    pub rev: u64,
}

impl Facts {
    /// The facts of a user's state.
    pub fn of(user: &User) -> Self {
        Self {
            username: user.username.key(),
            display_name: fold(&user.display_name),
            email: user.email.as_ref().map(|email| fold(email.as_str())),
            status: user.status,
            role: user.role,
            created_at: user.created_at,
            updated_at: user.updated_at,
            rev: user.rev,
        }
    }

    fn value(&self, field: Field) -> Option<Fact<'_>> {
        Some(match field {
            Field::Username => Fact::Text(&self.username),
            Field::DisplayName => Fact::Text(&self.display_name),
            Field::Email => Fact::Text(self.email.as_deref()?),
            Field::Status => Fact::Text(self.status.as_str()),
            Field::Role => Fact::Text(self.role.as_str()),
            Field::CreatedAt => Fact::Number(self.created_at.ms()),
            Field::UpdatedAt => Fact::Number(self.updated_at.ms()),
            Field::Rev => Fact::Number(i64::try_from(self.rev).unwrap_or(i64::MAX)),
        })
    }
}

/// An [`Operand`] that borrows.
#[derive(PartialEq, PartialOrd)]
enum Fact<'a> {
    Text(&'a str),
    Number(i64),
}

impl<'a> From<&'a Operand> for Fact<'a> {
    fn from(operand: &'a Operand) -> Self {
        match operand {
            Operand::Text(text) => Self::Text(text),
            Operand::Number(number) => Self::Number(*number),
        }
    }
}

impl Filter {
    /// Checks a filter as it came over the wire. Paths in errors begin with `filter`.
    pub fn parse(value: &Value) -> Result<Self, FilterError> {
        let (root, private_path) = parse::parse(value)?;
        Ok(Self { root, private_path })
    }

    /// The tree, for a store to make its query from.
    pub fn root(&self) -> &Node {
        &self.root
    }

    /// Where the filter first names a field that only admins may filter by, e.g. `filter.or[1].email`.
    pub fn names_private_field(&self) -> Option<&str> {
        self.private_path.as_deref()
    }

    /// Whether the user matches.
    pub fn matches(&self, user: &User) -> bool {
        self.matches_facts(&Facts::of(user))
    }

    /// Whether a user of these facts matches.
    pub fn matches_facts(&self, facts: &Facts) -> bool {
        self.root.holds(facts)
    }
}

impl Node {
    fn holds(&self, facts: &Facts) -> bool {
        match self {
            Self::And(nodes) => nodes.iter().all(|node| node.holds(facts)),
            Self::Or(nodes) => nodes.iter().any(|node| node.holds(facts)),
            Self::Not(node) => !node.holds(facts),
            Self::Test(field, test) => test.holds(facts.value(*field)),
        }
    }
}

impl Test {
    /// Whether it holds for a status or role of this word.
    pub fn holds_for_word(&self, word: &str) -> bool {
        self.holds(Some(Fact::Text(word)))
    }

    fn holds(&self, fact: Option<Fact<'_>>) -> bool {
        let Some(fact) = fact else {
            return matches!(self, Self::Ne(_) | Self::Exists(false));
        };
        match self {
            Self::Eq(operand) => fact == Fact::from(operand),
            Self::Ne(operand) => fact != Fact::from(operand),
            Self::In(operands) => operands.iter().any(|operand| fact == Fact::from(operand)),
            Self::Prefix(prefix) => matches!(fact, Fact::Text(text) if text.starts_with(prefix.as_str())),
            Self::Gt(operand) => fact > Fact::from(operand),
            Self::Gte(operand) => fact >= Fact::from(operand),
            Self::Lt(operand) => fact < Fact::from(operand),
            Self::Lte(operand) => fact <= Fact::from(operand),
            Self::Exists(exists) => *exists,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn facts() -> Facts {
        Facts {
            username: "alice".into(),
            display_name: fold("Ålice Müller"),
            email: None,
            status: Status::Active,
            role: Role::User,
            created_at: Time::parse("2026-01-01T00:00:00Z").unwrap(),
            updated_at: Time::parse("2026-02-01T00:00:00Z").unwrap(),
            rev: 3,
        }
    }

    fn holds(filter: Value) -> bool {
        Filter::parse(&filter).unwrap().matches_facts(&facts())
    }

    #[test]
    fn text_is_compared_folded() {
        assert!(holds(json!({"username": {"eq": "ALICE"}})));
        assert!(holds(json!({"display_name": {"prefix": "âlice mu"}})));
        assert!(holds(json!({"display_name": {"gte": "Alice", "lt": "alicf"}})));
        assert!(!holds(json!({"username": {"in": ["bob", "carol"]}})));
    }

    #[test]
    fn null_differs_from_everything_and_does_not_exist() {
        for (test, truth) in [
            (json!({"eq": "a@b"}), false),
            (json!({"ne": "a@b"}), true),
            (json!({"in": ["a@b"]}), false),
            (json!({"prefix": ""}), false),
            (json!({"lt": "z"}), false),
            (json!({"gte": ""}), false),
            (json!({"exists": false}), true),
            (json!({"exists": true}), false),
        ] {
            assert_eq!(holds(json!({"email": test})), truth, "{test}");
            assert_eq!(holds(json!({"not": {"email": test}})), !truth, "not {test}");
        }
    }

    #[test]
    fn members_are_and_ed_and_an_empty_object_matches_all() {
        assert!(holds(json!({})));
        assert!(holds(json!({"role": {}})));
        assert!(holds(json!({"role": {"eq": "user"}, "rev": {"gt": 2, "lte": 3}})));
        assert!(!holds(json!({"role": {"eq": "user"}, "status": {"ne": "active"}})));
        assert!(holds(json!({"or": [{"role": {"eq": "admin"}}, {"not": {"status": {"eq": "erased"}}}]})));
        assert!(holds(json!({"created_at": {"eq": "2026-01-01T01:00:00+01:00"}})));
    }

    #[test]
    fn a_private_field_is_named_with_its_path() {
        let private = |filter| Filter::parse(&filter).unwrap().names_private_field().map(str::to_owned);
        assert_eq!(
            private(json!({"or": [{}, {"not": {"email": {"eq": "x"}}}]})).as_deref(),
            Some("filter.or[1].not.email")
        );
        assert_eq!(private(json!({"email": {}})).as_deref(), Some("filter.email"));
        assert_eq!(private(json!({"username": {"eq": "email"}})), None);
    }

    #[test]
    fn one_filter_has_one_serialised_form() {
        let text = |filter: &str| {
            serde_json::to_string(&Filter::parse(&serde_json::from_str(filter).unwrap()).unwrap()).unwrap()
        };
        assert_eq!(text(r#"{"username": {"eq": "Álice"}}"#), text(r#"{"username":{"eq":"alice"}}"#));
        assert_ne!(text(r#"{"username": {"eq": "alice"}}"#), text(r#"{"username": {"ne": "alice"}}"#));
        assert_ne!(text(r#"{"rev": {"eq": 1}}"#), text(r#"{"not": {"rev": {"eq": 1}}}"#));
    }

    proptest! {
        #[test]
        fn a_prefix_holds_exactly_where_the_folded_text_begins_with_it(text in "\\PC{0,8}", prefix in "\\PC{0,3}") {
            let filter = Filter::parse(&json!({"display_name": {"prefix": prefix}})).unwrap();
            let facts = Facts { display_name: fold(&text), ..facts() };
            prop_assert_eq!(filter.matches_facts(&facts), fold(&text).starts_with(&fold(&prefix)));
        }

        #[test]
        fn comparisons_of_one_value_are_consistent(a in "\\PC{0,4}", b in "\\PC{0,4}") {
            let facts = Facts { display_name: fold(&a), ..facts() };
            let holds = |operator: &str| {
                Filter::parse(&json!({"display_name": {operator: b}})).unwrap().matches_facts(&facts)
            };
            prop_assert_eq!(holds("eq"), !holds("ne"));
            prop_assert_eq!(holds("lt"), !holds("gte"));
            prop_assert_eq!(holds("gt"), !holds("lte"));
            prop_assert_eq!(holds("eq"), holds("lte") && holds("gte"));
        }
    }
}
