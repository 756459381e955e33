//! Indices and aliases that are lost: nothing is served, or made anew, in their place in silence.

use serde_json::{Value, json};

use crate::start::{Place, assert_one};
use crate::support::{Ended, Home, Indices, PASSWORD, PATIENCE, Process, TestClient};

/// Indices with alice, bob and a session of each; nobody serves them now.
async fn indices_with_users() -> Indices {
    let indices = Indices::new();
    let home = Home::elastic(indices);
    let gateway = home.start(&[]).await;
    for username in ["alice", "bob"] {
        TestClient::connect(gateway.address, &[]).await.register(username).await;
    }
    gateway.kill().await;
    home.into_indices()
}

fn settings(indices: &Indices) -> Vec<(&'static str, String)> {
    let url = [("ES_URL", indices.url.clone()), ("DOORWARD_INDEX_PREFIX", indices.prefix.clone())];
    // No patience: what is wrong is not waited for.
    let rest = [("DOORWARD_ES_START_SECONDS", "60".to_owned()), ("DOORWARD_LOG", "error".to_owned())];
    let secrets = crate::support::SECRETS.map(|(name, value)| (name, value.to_owned()));
    secrets.into_iter().chain(url).chain(rest).collect()
}

/// Runs a command with these indices to its end.
async fn run(indices: &Indices, args: &[&str]) -> Ended {
    let settings = settings(indices);
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let began = std::time::Instant::now();
    let ended = Place::new().run(args, &settings).await;
    assert!(began.elapsed() < PATIENCE, "{args:?}: nothing was to be waited for");
    ended
}

/// The command fails with one line that has these parts, and leaves the indices as they were.
async fn refused(indices: &Indices, args: &[&str], parts: &[&str]) {
    let before = indices.names().await;
    let ended = run(indices, args).await;
    let lines: Vec<String> = ended.stderr.lines().map(str::to_owned).collect();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{args:?}: {lines:?}");
    for part in parts {
        assert_one(&lines, part);
    }
    assert_eq!(indices.names().await, before, "{args:?}");
}

/// The command ends well, and its standard output is this.
async fn says(indices: &Indices, args: &[&str], lines: &[String]) {
    let ended = run(indices, args).await;
    assert_eq!(ended.code, Some(0), "{args:?}: {}", ended.stderr);
    let said: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(said, lines, "{args:?}");
}

/// A gateway over the indices.
async fn serve(indices: &Indices) -> Process {
    let place = tempfile::tempdir().unwrap();
    let settings = settings(indices);
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Process::start(&place.path().join("data"), &settings).await
}

async fn register(gateway: &Process, username: &str, email: &str) -> Result<Value, crate::support::Failure> {
    let params = json!({"username": username, "email": email, "password": PASSWORD});
    TestClient::connect(gateway.address, &[]).await.call("auth.register", params).await
}

#[tokio::test]
async fn an_index_that_is_missing_beside_the_others_stops_start_and_migrate() {
    for (kind, remedy) in [
        ("users", "restore it from a snapshot"),
        ("emails", "`doorward migrate --rebuild emails`"),
        ("sessions", "`doorward migrate --rebuild sessions`"),
        ("state", "`doorward migrate --rebuild state`"),
    ] {
        let indices = indices_with_users().await;
        indices.ask("DELETE", &indices.first(kind), Value::Null).await;
        let named = format!(": the index {}-{kind} is missing", indices.prefix);
        for args in [&[][..], &["migrate"], &["admin", "promote", "alice"]] {
            refused(&indices, args, &[&named, remedy]).await;
        }
    }
}

#[tokio::test]
async fn users_cannot_be_made_anew_from_anything() {
    let indices = indices_with_users().await;
    indices.ask("DELETE", &indices.first("users"), Value::Null).await;
    let ended = run(&indices, &["migrate", "--rebuild", "users"]).await;
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    refused(&indices, &["migrate", "--rebuild", "sessions"], &["-users is missing"]).await;
    // All of them deleted is the way to begin anew.
    for kind in ["emails", "sessions", "state"] {
        indices.ask("DELETE", &indices.first(kind), Value::Null).await;
    }
    let gateway = serve(&indices).await;
    register(&gateway, "alice", "alice@example.com").await.unwrap();
}

#[tokio::test]
async fn an_index_of_another_data_set_is_refused() {
    let (one, two) = (indices_with_users().await, indices_with_users().await);
    // As after a restore from a snapshot of other gateways.
    let emails = one.first("emails");
    let made = two.ask("GET", &two.first("emails"), Value::Null).await[two.first("emails")].clone();
    one.ask("DELETE", &emails, Value::Null).await;
    let aliases = json!({format!("{}-emails", one.prefix): {"is_write_index": true}, format!("{emails}-own"): {}});
    one.ask("PUT", &emails, json!({"mappings": made["mappings"], "aliases": aliases})).await;
    for args in [&[][..], &["migrate"], &["migrate", "--rebuild", "emails"]] {
        refused(&one, args, &[&format!("the index {emails} is of another data set")]).await;
    }
}

#[tokio::test]
async fn sessions_and_state_are_made_anew_on_demand() {
    let indices = indices_with_users().await;
    for kind in ["sessions", "state"] {
        indices.ask("DELETE", &indices.first(kind), Value::Null).await;
    }
    refused(&indices, &["migrate", "--rebuild", "sessions"], &["-state is missing"]).await;
    let up_to_date = |kind: &str| format!("{}: up to date", indices.first(kind));
    let anew = |kind: &str| format!("{}: made anew, empty", indices.first(kind));
    let lines = [anew("state"), up_to_date("emails"), anew("sessions"), up_to_date("users")];
    says(&indices, &["migrate", "--rebuild", "sessions", "--rebuild", "state"], &lines).await;
    refused(&indices, &["migrate", "--rebuild", "sessions"], &["is there"]).await;
    let gateway = serve(&indices).await;
    let mut alice = TestClient::connect(gateway.address, &[]).await;
    alice.login("alice").await;
    gateway.kill().await;
    says(&indices, &["migrate"], &["state", "emails", "sessions", "users"].map(up_to_date)).await;
}

#[tokio::test]
async fn addresses_are_reserved_again_from_the_users_and_those_of_two_are_told() {
    let indices = indices_with_users().await;
    let gateway = serve(&indices).await;
    register(&gateway, "carol", "carol@example.com").await.unwrap();
    gateway.kill().await;
    indices.ask("DELETE", &indices.first("emails"), Value::Null).await;
    // As an earlier loss of the index may have left it: carol has the address of bob, too.
    indices.refresh("users").await;
    let carol = format!("{}/_update/carol?refresh=true", indices.first("users"));
    let address = json!({"doc": {"email": "Bob@example.com", "email_key": "bob@example.com"}});
    indices.ask("POST", &carol, address).await;

    let ended = run(&indices, &["migrate", "--rebuild", "emails"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let line = format!("{}: made anew from 3 users with addresses", indices.first("emails"));
    assert!(ended.stdout.lines().any(|said| said == line), "{}", ended.stdout);
    let both = "bob and carol have the same address, which is bob's now: give carol another";
    assert!(ended.stdout.contains(both), "{}", ended.stdout);
    assert!(!format!("{}{}", ended.stdout, ended.stderr).contains("bob@"), "no address is shown");
    assert!(ended.stderr.contains(" of 3 "), "its progress is told: {}", ended.stderr);

    let gateway = serve(&indices).await;
    for (username, email) in [("dave", "alice@example.com"), ("dave", "bob@example.com"), ("dave", "BOB@example.com")] {
        let refused = register(&gateway, username, email).await.unwrap_err();
        assert_eq!(refused.code, 1202, "{email}");
    }
    register(&gateway, "dave", "dave@example.com").await.unwrap();
    for login in ["alice@example.com", "bob@example.com"] {
        let params = json!({"login": login, "password": PASSWORD});
        let user = TestClient::connect(gateway.address, &[]).await.call("auth.login", params).await.unwrap();
        assert_eq!(format!("{}@example.com", user["user"]["username"].as_str().unwrap()), login);
    }
}

#[tokio::test]
async fn a_set_that_was_made_half_way_is_made_to_its_end() {
    let indices = Indices::new();
    let whole = Indices::new();
    serve(&whole).await.kill().await;
    // What a gateway leaves that ends after it has made the first index.
    let state = whole.ask("GET", &whole.first("state"), Value::Null).await[whole.first("state")].clone();
    let mut mappings = state["mappings"].clone();
    mappings["_meta"]["doorward"]["unfinished"] = json!(true);
    indices.ask("PUT", &indices.first("state"), json!({"mappings": mappings})).await;
    let gateway = serve(&indices).await;
    register(&gateway, "alice", "alice@example.com").await.unwrap();
    gateway.kill().await;
    indices.ask("DELETE", &indices.first("users"), Value::Null).await;
    refused(&indices, &[], &["-users is missing"]).await;
}

#[tokio::test]
async fn an_alias_that_is_missing_is_told_and_put_back_where_that_is_certain() {
    for kind in ["users", "emails", "sessions", "state"] {
        let indices = indices_with_users().await;
        let (alias, index) = (format!("{}-{kind}", indices.prefix), indices.first(kind));
        indices.ask("DELETE", &format!("{index}/_alias/{alias}"), Value::Null).await;
        let parts = [format!("the alias {alias} is missing"), index.clone(), "`doorward migrate`".to_owned()];
        refused(&indices, &[], &parts.each_ref().map(String::as_str)).await;
        let line = |of: &str| match of == kind {
            true => format!("{index}: behind the alias {alias} again"),
            false => format!("{}: up to date", indices.first(of)),
        };
        says(&indices, &["migrate"], &["state", "emails", "sessions", "users"].map(line)).await;
        let gateway = serve(&indices).await;
        TestClient::connect(gateway.address, &[]).await.login("alice").await;
        assert_eq!(register(&gateway, "carol", "bob@example.com").await.unwrap_err().code, 1202);
    }
}

#[tokio::test]
async fn all_aliases_lost_at_once_are_put_back_and_one_that_is_not_certain_is_told() {
    let indices = indices_with_users().await;
    indices.ask("DELETE", &format!("{}-*/_alias/*", indices.prefix), Value::Null).await;
    refused(&indices, &[], &["the alias "]).await;
    let ended = run(&indices, &["migrate"]).await;
    assert_eq!((ended.code, ended.stdout.lines().count()), (Some(0), 4), "{}", ended.stderr);
    assert!(ended.stdout.lines().all(|line| line.contains("again")), "{}", ended.stdout);

    // The former index is left after a move, and takes no writes: the new one has everything.
    let settings = settings(&indices);
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let ended = Place::new().run(&["migrate"], &[&settings[..], &[("DOORWARD_ES_SHARDS", "2")]].concat()).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let users = format!("{}-users", indices.prefix);
    indices.ask("DELETE", &format!("{users}-000002/_alias/{users}"), Value::Null).await;
    let line = format!("{users}-000002: behind the alias {users} again");
    let ended = Place::new().run(&["migrate"], &[&settings[..], &[("DOORWARD_ES_SHARDS", "2")]].concat()).await;
    assert_eq!((ended.code, ended.stdout.lines().last()), (Some(0), Some(line.as_str())), "{}", ended.stderr);
    // An alias that somebody put on both is nothing to guess about.
    indices.ask("PUT", &format!("{users}-000001/_alias/{users}"), Value::Null).await;
    refused(&indices, &[], &[&format!("the alias {users} names several indices")]).await;
    refused(&indices, &["migrate"], &[&format!("the alias {users} names several indices")]).await;
}

#[tokio::test]
async fn indices_without_the_identity_of_their_data_set_are_given_one_by_migrate() {
    let indices = indices_with_users().await;
    let strip = async |kind: &str| {
        let index = indices.first(kind);
        let meta = json!({"kind": kind, "schema": 2, "formers": []});
        indices.ask("PUT", &format!("{index}/_mapping"), json!({"_meta": {"doorward": meta}})).await;
        indices.ask("DELETE", &format!("{index}/_alias/{index}-own"), Value::Null).await;
    };
    for kinds in [&["users", "emails", "sessions", "state"][..], &["emails"]] {
        for kind in kinds {
            strip(kind).await;
        }
        refused(&indices, &[], &["has no identity", "`doorward migrate`"]).await;
        let ended = run(&indices, &["migrate"]).await;
        let given = ended.stdout.lines().filter(|line| line.contains("identity")).count();
        assert_eq!((ended.code, given), (Some(0), kinds.len()), "{}{}", ended.stdout, ended.stderr);
        let gateway = serve(&indices).await;
        TestClient::connect(gateway.address, &[]).await.login("alice").await;
    }
}

#[tokio::test]
async fn a_closed_index_is_told_at_the_start() {
    let indices = indices_with_users().await;
    indices.ask("POST", &format!("{}/_close", indices.first("emails")), Value::Null).await;
    let told = format!("the index {} is closed", indices.first("emails"));
    refused(&indices, &[], &[&told]).await;
    refused(&indices, &["migrate"], &[&told]).await;
}
