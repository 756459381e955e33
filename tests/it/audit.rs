//! The audit trail: every event is provoked, and the table in docs/metrics.md is what the gateway writes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::codes::sources;
use crate::support::{Home, PASSWORD, Process, TestClient};

const REFERENCE: &str = include_str!("../../docs/metrics.md");
const WRONG: &str = "none of their passwords";

type Events = BTreeMap<String, BTreeSet<String>>;

/// The words between backticks.
fn words(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The table: each event with its fields.
fn table() -> Events {
    let section = REFERENCE.split("\n## The audit trail").nth(1).unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|row| row.trim_matches('|').split('|').collect::<Vec<_>>());
    let event = |cell: &str| words(cell).pop_first().unwrap();
    cells.map(|cells| (event(cells[0]), words(cells[2]))).collect()
}

/// The lines of the trail in a log: the event with its fields.
fn lines(log: &str) -> impl Iterator<Item = (String, Value)> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let trail = lines.filter(|line| line["target"] == "audit");
    trail.map(|line| (line["fields"]["event"].as_str().unwrap().to_owned(), line["fields"].clone()))
}

/// Has everything happen that the trail tells of.
async fn provoke(gateway: &Process) {
    let connect = async || TestClient::connect(gateway.address, &[]).await;
    let mut keeper = connect().await;
    keeper.login("keeper").await;
    let bob = json!({"username": "bob", "email": "bob@example.com", "password": PASSWORD});
    for (method, params) in [
        ("users.create", bob),
        ("users.update", json!({"username": "bob", "patch": {"bio": "changed"}})),
        ("users.set_role", json!({"username": "bob", "role": "admin"})),
        ("users.deactivate", json!({"username": "bob"})),
        ("users.reactivate", json!({"username": "bob"})),
        ("users.erase", json!({"username": "bob"})),
    ] {
        keeper.call(method, params).await.unwrap();
    }
    let mut alice = connect().await;
    let first = alice.register("alice").await;
    let email = json!({"username": "me", "patch": {"email": "a@example.com"}, "current_password": WRONG});
    assert_eq!(alice.call("users.update", email).await.unwrap_err().code, 1005);
    let mut token = first["tokens"]["refresh_token"].clone();
    for _ in 0..2 {
        let refreshed = keeper.call("auth.refresh", json!({"refresh_token": token})).await.unwrap();
        token = refreshed["tokens"]["refresh_token"].clone();
    }
    let reused = json!({"refresh_token": first["tokens"]["refresh_token"]});
    assert_eq!(keeper.call("auth.refresh", reused).await.unwrap_err().code, 1004);
    let mut nobody = connect().await;
    for code in [1005, 1302] {
        let login = json!({"login": "nobody", "password": WRONG});
        assert_eq!(nobody.call("auth.login", login).await.unwrap_err().code, code);
    }
}

#[tokio::test]
async fn s16_every_event_of_the_audit_trail_is_written_with_its_fields_and_in_the_reference() {
    let home = Home::of_this_run();
    let json = [("DOORWARD_LOG_FORMAT", "json"), ("DOORWARD_LOGIN_FAILURES", "1")];
    let mut command = home.command(&json);
    command.args(["admin", "create", "keeper", "--email", "keeper@example.com", "--password-stdin"]);
    let created = Process::run(command, PASSWORD).await.stderr;
    command = home.command(&json);
    command.args(["admin", "promote", "keeper"]); // changes nothing
    assert_eq!(lines(&Process::run(command, "").await.stderr).count(), 0);

    let path = home.data().with_extension("log");
    let mut command = home.command(&json);
    command.stderr(File::create(&path).unwrap());
    let mut gateway = Process::spawn(command).await;
    provoke(&gateway).await;
    gateway.signal(Signal::TERM);
    assert!(gateway.wait().await.success());
    let log = created.clone() + &std::fs::read_to_string(&path).unwrap();

    let (table, mut seen) = (table(), Events::new());
    for (event, fields) in lines(&log) {
        let mut names: BTreeSet<String> = fields.as_object().unwrap().keys().cloned().collect();
        assert!(names.remove("event") && names.remove("address"), "{fields}");
        assert_eq!(Some(&names), table.get(&event), "{event}");
        seen.insert(event, names);
    }
    assert_eq!(seen, table);
    let by_command = lines(&created).map(|(event, fields)| (event, fields["user"].clone(), fields["address"].clone()));
    let expected = ("created".to_owned(), json!("keeper"), json!("command line"));
    assert_eq!(by_command.collect::<Vec<_>>(), [expected]);
}

#[test]
fn s16_no_event_of_the_audit_trail_is_missing_in_the_reference() {
    let (code, table) = (sources("src".as_ref()), table());
    let lines = code.split(r#"target: "audit", event = "#).skip(1);
    let named: Vec<&str> = lines.filter_map(|line| line.strip_prefix('"')?.split('"').next()).collect();
    // The others are the kinds of a change.
    assert_eq!(named.len(), code.matches(r#"target: "audit""#).count() - 1);
    let kinds = code.split("impl ChangeKind").nth(1).unwrap().split("\n}\n").next().unwrap();
    let kinds = kinds.lines().filter(|line| line.contains(" => \"")).filter_map(|line| line.split('"').nth(1));
    let written: BTreeSet<&str> = named.into_iter().chain(kinds).collect();
    assert_eq!(written, table.keys().map(String::as_str).collect());
}
