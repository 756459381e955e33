//! The filter as an SQL condition.
//!
//! Text from outside is only ever bound as a parameter: the SQL is made of words of the program. Conditions
//! are true or false, never null, so that `NOT` means what the matcher means.

use rusqlite::types::Value;

use crate::store::kept_as;
use crate::users::filter::{Field, Filter, Node, Operand, Test};
use crate::users::{Role, Status};

/// SQL under construction: its text so far and what is bound to its parameters.
#[derive(Default)]
pub(super) struct Sql {
    /// The text.
    pub(super) text: String,
    /// The values of its parameters, in order.
    pub(super) params: Vec<Value>,
}

impl Sql {
    /// Appends text.
    pub(super) fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// Appends a parameter.
    pub(super) fn bind(&mut self, value: impl Into<Value>) -> &mut Self {
        self.text.push('?');
        self.params.push(value.into());
        self
    }

    /// Appends the condition that the user of a row of `users` matches the filter.
    pub(super) fn push_filter(&mut self, filter: &Filter) -> &mut Self {
        self.push_node(filter.root())
    }

    fn push_node(&mut self, node: &Node) -> &mut Self {
        match node {
            Node::And(nodes) => self.push_joined(nodes, " AND ", "1"),
            Node::Or(nodes) => self.push_joined(nodes, " OR ", "0"),
            Node::Not(node) => self.push("NOT (").push_node(node).push(")"),
            Node::Test(field, test) => self.push_test(*field, test),
        }
    }

    fn push_joined(&mut self, nodes: &[Node], operator: &str, of_nothing: &str) -> &mut Self {
        if nodes.is_empty() {
            return self.push(of_nothing);
        }
        for (at, node) in nodes.iter().enumerate() {
            self.push(if at == 0 { "(" } else { operator }).push("(").push_node(node).push(")");
        }
        self.push(")")
    }

    fn push_test(&mut self, field: Field, test: &Test) -> &mut Self {
        let column = kept_as(field);
        match field {
            Field::Status => {
                let words = [Status::Active, Status::Deactivated, Status::Erased].map(Status::as_str);
                return self.push_words(column, &words, test);
            }
            Field::Role => return self.push_words(column, &[Role::User, Role::Admin].map(Role::as_str), test),
            _ => {}
        }
        match test {
            Test::Ne(operand) => return self.push(column).push(" IS NOT ").bind(operand),
            Test::Exists(exists) if !field.is_nullable() => return self.push(if *exists { "1" } else { "0" }),
            Test::Exists(false) => return self.push(column).push(" IS NULL"),
            _ => {}
        }
        if field.is_nullable() {
            self.push(column).push(" IS NOT NULL AND ");
        }
        self.push(column);
        match test {
            Test::Eq(operand) => self.push(" = ").bind(operand),
            Test::Gt(operand) => self.push(" > ").bind(operand),
            Test::Gte(operand) => self.push(" >= ").bind(operand),
            Test::Lt(operand) => self.push(" < ").bind(operand),
            Test::Lte(operand) => self.push(" <= ").bind(operand),
            Test::Ne(_) | Test::Exists(_) => self.push(" IS NOT NULL"),
            Test::In(operands) => {
                for (at, operand) in operands.iter().enumerate() {
                    self.push(if at == 0 { " IN (" } else { ", " }).bind(operand);
                }
                self.push(")")
            }
            Test::Prefix(prefix) => {
                self.push(" >= ").bind(prefix.clone());
                match successor(prefix) {
                    Some(successor) => self.push(" AND ").push(column).push(" < ").bind(successor),
                    None => self,
                }
            }
        }
    }
}

impl Sql {
    /// Appends a condition on a column of few words, of which the first is the usual one. The words are the
    /// program's own, so they are written out: only then can SQLite see that an index of the unusual ones serves.
    fn push_words(&mut self, column: &str, words: &[&'static str], test: &Test) -> &mut Self {
        let wanted: Vec<&str> = words.iter().copied().filter(|word| test.holds_for_word(word)).collect();
        if wanted.is_empty() {
            return self.push("0");
        }
        if !wanted.contains(&words[0]) {
            self.push(column).push(" <> '").push(words[0]).push("' AND ");
        }
        for (at, word) in wanted.into_iter().enumerate() {
            self.push(if at == 0 { column } else { "" }).push(if at == 0 { " IN ('" } else { ", '" });
            self.push(word).push("'");
        }
        self.push(")")
    }
}

impl From<&Operand> for Value {
    fn from(operand: &Operand) -> Self {
        match operand {
            Operand::Text(text) => Self::Text(text.clone()),
            Operand::Number(number) => Self::Integer(*number),
        }
    }
}

/// The least text greater than every text that begins with `prefix`; `None` when there is none.
fn successor(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        // Steps over the surrogates, which no text holds.
        let next = if last == '\u{D7FF}' { Some('\u{E000}') } else { char::from_u32(last as u32 + 1) };
        if let Some(next) = next {
            text.push(next);
            return Some(text);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_code_point_has_no_successor() {
        assert_eq!(successor(""), None);
        assert_eq!(successor("a\u{10FFFF}").as_deref(), Some("b"));
        assert_eq!(successor("\u{10FFFF}\u{10FFFF}"), None);
        assert_eq!(successor("\u{D7FF}").as_deref(), Some("\u{E000}"));
    }

    proptest! {
        #[test]
        fn a_text_is_in_the_range_of_a_prefix_exactly_when_it_begins_with_it(text in any::<String>(), prefix in any::<String>()) {
            for text in [text.clone(), format!("{prefix}{text}")] {
                let below = successor(&prefix).is_none_or(|successor| text < successor);
                prop_assert_eq!(text >= prefix && below, text.starts_with(&prefix));
            }
        }
    }
}
