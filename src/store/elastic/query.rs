//! The filter as a query of Elasticsearch.
//!
//! Text from outside is only ever a JSON string in the place of a value: never query syntax, never a field.

use serde_json::{Value, json};

use crate::store::kept_as;
use crate::users::filter::{Field, Filter, Node, Operand, Test};

/// A query that matches all.
pub(super) fn all() -> Value {
    json!({"match_all": {}})
}

/// A query that matches the users whom the filter matches.
pub(super) fn of_filter(filter: Option<&Filter>) -> Value {
    filter.map_or_else(all, |filter| of_node(filter.root()))
}

fn of_node(node: &Node) -> Value {
    match node {
        Node::And(nodes) if nodes.is_empty() => all(),
        Node::And(nodes) => json!({"bool": {"filter": nodes.iter().map(of_node).collect::<Vec<_>>()}}),
        Node::Or(nodes) if nodes.is_empty() => none(),
        Node::Or(nodes) => {
            let should: Vec<Value> = nodes.iter().map(of_node).collect();
            json!({"bool": {"should": should, "minimum_should_match": 1}})
        }
        Node::Not(node) => not(of_node(node)),
        Node::Test(field, test) => of_test(*field, test),
    }
}

fn of_test(field: Field, test: &Test) -> Value {
    let name = kept_as(field);
    let range = |comparison: &str, operand: &Operand| json!({"range": {name: {comparison: operand}}});
    match test {
        Test::Eq(operand) => json!({"term": {name: {"value": operand}}}),
        Test::Ne(operand) => not(json!({"term": {name: {"value": operand}}})),
        Test::In(operands) => json!({"terms": {name: operands}}),
        // Every text begins with nothing, even the empty one.
        Test::Prefix(prefix) if prefix.is_empty() => exists(name),
        Test::Prefix(prefix) => json!({"prefix": {name: {"value": prefix}}}),
        Test::Gt(operand) => range("gt", operand),
        Test::Gte(operand) => range("gte", operand),
        Test::Lt(operand) => range("lt", operand),
        Test::Lte(operand) => range("lte", operand),
        Test::Exists(true) => exists(name),
        Test::Exists(false) => not(exists(name)),
    }
}

fn exists(name: &str) -> Value {
    json!({"exists": {"field": name}})
}

fn not(query: Value) -> Value {
    json!({"bool": {"must_not": [query]}})
}

fn none() -> Value {
    json!({"match_none": {}})
}
