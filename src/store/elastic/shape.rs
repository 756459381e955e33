//! Whether an index is as this program makes it: templates of the cluster, and people, may have their own ideas.

use serde_json::{Map, Value, json};

use super::SCHEMA;
use super::index::{Meta, mappings};

/// Settings that are told when an index is made, since those of a template would break what is promised.
pub(super) const SETTLED: [(&str, &str); 6] = [
    ("index.default_pipeline", "_none"),
    ("index.final_pipeline", "_none"),
    ("index.max_result_window", "10000"),
    ("index.mode", "standard"),
    ("index.routing_partition_size", "1"),
    ("index.translog.durability", "request"),
];
/// Settings that cannot be told away, and must not be there: a policy rolls indices over and deletes them, an order
/// changes what a search by number costs, another analyser what words are.
const UNWANTED: [&str; 4] =
    ["index.lifecycle.name", "index.sort.field", "index.analysis.", "index.mapping.source.mode"];
/// Parts of the mapping that must not be there: documents would not be kept as they are, or be looked for elsewhere.
const UNWANTED_PARTS: [&str; 3] = ["_routing", "_source", "runtime"];

/// What an index has that it must not have, by how the cluster describes it (with flat settings); `None` when all is well.
pub(super) fn fault(body: &Value, meta: &Meta) -> Option<String> {
    let nothing = Map::new();
    let settings = body["settings"].as_object().unwrap_or(&nothing);
    let setting = |name: &str, value: &Value| {
        format!("the setting {name} = {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    };
    for (name, value) in settings {
        let wrong = match SETTLED.iter().find(|(settled, _)| settled == name) {
            Some(("index.max_result_window", least)) => number(value) < number(&json!(least)),
            Some((_, wanted)) => value != wanted,
            None => UNWANTED.iter().any(|unwanted| name.starts_with(unwanted)),
        };
        if wrong {
            return Some(setting(name, value));
        }
    }
    let found = &body["mappings"];
    if let Some((part, value)) = UNWANTED_PARTS.iter().find_map(|part| Some((part, found.get(part)?))) {
        return Some(format!("the mapping {part} = {value}"));
    }
    // What another version has made is not known here.
    if meta.schema != SCHEMA {
        return None;
    }
    let wanted = mappings(meta);
    if found["dynamic"] != wanted["dynamic"] {
        return Some(format!("the mapping dynamic = {}", found["dynamic"]));
    }
    let (found, wanted) = (found["properties"].as_object(), wanted["properties"].as_object());
    let (found, wanted) = (found.unwrap_or(&nothing), wanted.unwrap_or(&nothing));
    let mut names = found.keys().chain(wanted.keys());
    let differs = |name: &&String| !is_same(found.get(*name), wanted.get(*name));
    let name = names.find(differs)?;
    Some(if wanted.contains_key(name) {
        format!("another mapping of the field {name}")
    } else {
        format!("the field {name}")
    })
}

fn number(value: &Value) -> Option<u64> {
    value.as_str()?.parse().ok()
}

/// Whether two mappings of a field are the same: an object without fields is told in another way than it is made.
fn is_same(found: Option<&Value>, wanted: Option<&Value>) -> bool {
    let is_empty = |value: &Value| value["properties"].as_object().is_some_and(Map::is_empty);
    match (found, wanted) {
        (Some(found), Some(wanted)) => found == wanted || is_empty(wanted) && found["type"] == "object",
        _ => false,
    }
}
