//! The tables of codes in the reference: each code is provoked here as a client would meet it, and the code has no other.

mod closes;
mod errors;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const REFERENCE: &str = include_str!("../../docs/protocol.md");
const ERRORS: &str = include_str!("../../src/rpc/error.rs");

/// The rows of the table below a heading of the reference, as cells.
fn rows(heading: &str) -> Vec<Vec<&'static str>> {
    let section = REFERENCE.split(heading).nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| code"));
    rows.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// The codes and kinds of the errors in the reference.
fn errors() -> BTreeMap<i64, &'static str> {
    let rows = rows("\n## 6. Errors");
    rows.iter().map(|row| (row[0].parse().expect("a code"), row[1].trim_matches('`'))).collect()
}

/// The close codes in the reference; one row may have several.
fn close_codes() -> BTreeSet<u16> {
    let rows = rows("\n## 7. Close codes");
    rows.iter().flat_map(|row| row[0].split(' ')).map(|code| code.parse().expect("a code")).collect()
}

/// The arms `Self::Name… => value` of one function of `RpcError`, by their variants.
fn arms(function: &str) -> BTreeMap<&'static str, &'static str> {
    let body = ERRORS.split(&format!("pub fn {function}(")).nth(1).unwrap().split("\n    }\n").next().unwrap();
    let arms = body.lines().filter_map(|line| line.trim().trim_end_matches(',').split_once(" => "));
    arms.filter(|(variants, _)| variants.starts_with("Self::")).collect()
}

/// The text of every Rust file below a folder.
pub fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &sources(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &std::fs::read_to_string(path).unwrap();
        }
    }
    text
}

#[test]
fn s23_the_table_of_errors_is_the_code() {
    let (codes, kinds) = (arms("code"), arms("kind"));
    let code: BTreeMap<i64, &str> =
        codes.iter().map(|(error, code)| (code.parse().expect("a code"), kinds[error].trim_matches('"'))).collect();
    assert_eq!(errors(), code);
}

#[tokio::test(flavor = "multi_thread")]
async fn s23_each_error_code_of_the_reference_is_provoked() {
    for (code, kind) in errors() {
        let failure = errors::provoke(code).await;
        assert_eq!((failure.code, &failure.data["kind"]), (code, &kind.into()), "{failure:?}");
        assert!(failure.data["request_id"].is_string() && failure.data["retryable"].is_boolean(), "{failure:?}");
        assert!(!failure.message.is_empty(), "{failure:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s23_each_close_code_of_the_reference_is_provoked() {
    for code in close_codes() {
        assert_eq!(closes::provoke(code).await, code);
    }
}

#[test]
fn s23_the_sources_close_with_the_codes_of_the_reference() {
    let sources = sources(Path::new("src"));
    let numbers = sources.split(|c: char| !c.is_ascii_digit());
    // Other numbers of four digits are sizes.
    let is_code = |number: &u16| (4000..4020).contains(number) || (4500..4520).contains(number);
    let ours: BTreeSet<u16> = numbers.filter_map(|text| text.parse().ok()).filter(is_code).collect();
    assert_eq!(ours, close_codes().into_iter().filter(is_code).collect());
}
