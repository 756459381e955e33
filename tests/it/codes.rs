//! The tables of codes in the reference, held against the code and against the tests that provoke each.

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

/// The arms `Self::Name… => value` of one function of `RpcError`, by the value.
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
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("codes.rs") {
            text += &std::fs::read_to_string(path).unwrap();
        }
    }
    text
}

/// The numbers in a text.
fn numbers(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_digit() || c == '-')).collect()
}

#[test]
fn s23_the_table_of_errors_is_the_code() {
    let (codes, kinds) = (arms("code"), arms("kind"));
    let code: BTreeSet<_> = codes.iter().map(|(error, code)| (*code, kinds[error].trim_matches('"'))).collect();
    let table: BTreeSet<_> = rows("\n## 6. Errors").iter().map(|row| (row[0], row[1].trim_matches('`'))).collect();
    assert_eq!(table, code);
}

#[test]
fn s23_each_error_code_is_expected_by_a_test() {
    let tests = sources(Path::new("tests/it"));
    let (expected, codes) = (numbers(&tests), arms("code"));
    let never: Vec<_> = codes.values().filter(|code| !expected.contains(*code) && **code != "-32603").collect();
    // Our own failures cannot be provoked from outside; `rpc::tests` has a handler panic for -32603.
    assert_eq!(never, Vec::<&&str>::new());
}

#[test]
fn s23_each_close_code_of_the_reference_is_sent_and_expected_by_a_test_and_no_other_is() {
    let table: BTreeSet<&str> =
        rows("\n## 7. Close codes").iter().flat_map(|row| row[0].split(' ')).filter(|code| !code.is_empty()).collect();
    let (code, tests) = (sources(Path::new("src")), sources(Path::new("tests/it")));
    let (sent, expected) = (numbers(&code), numbers(&tests));
    for code in &table {
        assert!(expected.contains(code), "no test expects {code}");
        // tungstenite sends the codes of the standard for what breaks it.
        assert!(sent.contains(code) || code.starts_with('1'), "{code} is never sent");
    }
    let of_ours = |code: &&str| code.len() == 4 && (code.starts_with("400") || code.starts_with("450"));
    let in_code: BTreeSet<&str> = sent.into_iter().filter(of_ours).collect();
    assert!(in_code.is_subset(&table), "{:?} are not in the reference", in_code.difference(&table));
}
