//! Erasing a user: nothing personal is left in any table or index, whatever happens in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use doorward::users::Username;
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use serde_json::{Value, json};

use crate::support::elastic::elastic_address;
use crate::support::proxy::{Fault, FaultProxy, JSON, When};
use crate::support::{Indices, PASSWORD, PATIENCE, TestClient, TestGateway};

/// An address that nobody else has.
const ADDRESS: &str = "203.0.113.77";

/// What is personal of a user, as texts that nothing else has.
fn personal(name: &str) -> Vec<String> {
    let words = ["mail", "display", "bio", "avatar", "attribute", "device", "browser"];
    words.iter().map(|word| format!("{name}x{word}")).chain([ADDRESS.to_owned()]).collect()
}

/// A user with everything personal, and two sessions.
async fn person(gateway: &TestGateway, name: &str) {
    let headers = [("user-agent", format!("{name}xbrowser")), ("x-forwarded-for", ADDRESS.to_owned())];
    let mut socket = TestClient::connect(gateway.address, &headers.each_ref().map(|(name, it)| (*name, &**it))).await;
    let email = format!("{name}xmail@example.com");
    let new = json!({"username": name, "email": email, "password": PASSWORD, "device": format!("{name}xdevice")});
    socket.call("auth.register", new).await.unwrap();
    let patch = json!({"display_name": format!("{name}xdisplay"), "bio": format!("{name}xbio"),
        "avatar_url": format!("https://example.com/{name}xavatar"), "attributes": {"it": format!("{name}xattribute")}});
    socket.call("users.update", json!({"username": "me", "patch": patch})).await.unwrap();
    let login = json!({"login": name, "password": PASSWORD, "device": format!("{name}xdevice")});
    socket.call("auth.login", login).await.unwrap();
}

async fn gateway(config: impl FnOnce(&mut doorward::config::Config)) -> TestGateway {
    TestGateway::with(|it| {
        it.trusted_proxies = "127.0.0.0/8".parse().unwrap();
        config(it);
    })
    .await
}

/// A gateway whose way to these indices leads through a proxy.
async fn gateway_over(indices: &Indices, proxy: &FaultProxy) -> TestGateway {
    let elastic = indices.config_at(&proxy.url());
    gateway(|config| crate::support::keep_users_in(elastic, config)).await
}

async fn erase(gateway: &TestGateway, admin: &str, name: &str) -> Result<Value, i64> {
    let erased = gateway.call(Some(admin), "users.erase", json!({"username": name})).await;
    erased.map_err(|failure| failure.code)
}

/// Everything that the tables of a database hold.
fn tables(gateway: &TestGateway) -> String {
    let connection = Connection::open(gateway.database()).unwrap();
    let mut names = connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").unwrap();
    let names: Vec<String> = names.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert!(names.len() > 5, "{names:?}");
    let mut all = String::new();
    for name in names {
        let mut statement = connection.prepare(&format!("SELECT * FROM \"{name}\"")).unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            for column in 0..columns {
                match row.get_ref(column).unwrap() {
                    ValueRef::Text(bytes) | ValueRef::Blob(bytes) => all.push_str(&String::from_utf8_lossy(bytes)),
                    other => all.push_str(&format!("{other:?}")),
                }
                all.push('\n');
            }
        }
    }
    all
}

/// Everything that the indices hold.
async fn documents(indices: &Indices) -> String {
    let (http, all) = (reqwest::Client::new(), format!("{}/{}-*", indices.url, indices.prefix));
    http.post(format!("{all}/_refresh")).send().await.unwrap().error_for_status().unwrap();
    let found = http.get(format!("{all}/_search?size=10000")).send().await.unwrap();
    found.error_for_status().unwrap().text().await.unwrap()
}

/// What is left of what was personal, by the texts of [`personal`].
fn left(held: &str, name: &str) -> Vec<String> {
    personal(name).into_iter().filter(|it| held.contains(it.as_str())).collect()
}

const NOTHING: [String; 0] = [];

#[tokio::test]
async fn nothing_personal_is_left_in_any_table_whichever_write_of_an_erasure_fails() {
    let gateway = gateway(|config| config.elastic = None).await;
    let admin = gateway.admin("keeper").await.token;
    for (at, table) in ["users", "sessions"].into_iter().enumerate() {
        let name = format!("alice{at}");
        person(&gateway, &name).await;
        assert_eq!(left(&tables(&gateway), &name), personal(&name), "the tables are read");
        let store = &gateway.server().app().rpc.context.store;
        let hash = store.password_get(&Username::parse(&name).unwrap()).await.unwrap().unwrap();
        let beside = Connection::open(gateway.database()).unwrap();
        let fails = format!("CREATE TRIGGER fails BEFORE UPDATE ON {table} BEGIN SELECT RAISE(ABORT, 'fails'); END");
        beside.execute_batch(&fails).unwrap();
        let failed = erase(&gateway, &admin, &name).await;
        // No later try would pass, as far as the store can tell: our failure, which does not say that nothing was changed.
        assert!(matches!(failed, Err(-32603 | 1503)), "{table}: {failed:?}");
        beside.execute_batch("DROP TRIGGER fails").unwrap();
        for _ in 0..2 {
            assert_eq!(erase(&gateway, &admin, &name).await, Ok(json!({})), "{table}");
        }
        let held = tables(&gateway);
        assert_eq!((left(&held, &name), held.contains(hash.expose())), (NOTHING.to_vec(), false), "{table}");
    }
    assert_eq!(erase(&gateway, &admin, "nobody").await, Err(1201));
    let file = gateway.database();
    let copy = tempfile::tempdir().unwrap();
    // Not in a page that nothing refers to, either.
    Connection::open(&file).unwrap().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    std::fs::copy(&file, copy.path().join("db")).unwrap();
    let bytes = std::fs::read(copy.path().join("db")).unwrap();
    for name in ["alice0", "alice1"] {
        assert_eq!(left(&String::from_utf8_lossy(&bytes), name), NOTHING);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_personal_is_left_in_any_index_whichever_step_of_an_erasure_fails() {
    let indices = Indices::new();
    let proxy = FaultProxy::start(elastic_address()).await;
    let gateway = gateway_over(&indices, &proxy).await;
    let admin = gateway.admin("keeper").await.token;
    let mut failed = 0;
    for step in 0.. {
        let name = format!("alice{step}");
        person(&gateway, &name).await;
        assert_eq!(left(&documents(&indices).await, &name), personal(&name), "the indices are read");
        let seen = Arc::new(AtomicUsize::new(0));
        let count = seen.clone();
        // From this step on everything fails, but for what the feed asks for all the time.
        let fails = move |method: &hyper::Method, path: &str| {
            let is_feed = path.contains("/_stats") || path.contains("-users") && path.contains("/_search");
            !is_feed && method != hyper::Method::HEAD && count.fetch_add(1, Ordering::Relaxed) >= step
        };
        let refused = Fault::Answer(403, JSON, r#"{"error":{"type":"security_exception"},"status":403}"#);
        let rule = proxy.rule(fails, When::Always, refused);
        let first = erase(&gateway, &admin, &name).await;
        proxy.clear();
        failed += usize::from(first.is_err());
        assert!(matches!(first, Ok(_) | Err(1501 | 1503)), "{step}: {first:?}");
        if first.is_ok() {
            // What the gateway does after its answer is no part of the erasure; nothing may depend on it.
            assert_eq!(left(&documents(&indices).await, &name), NOTHING, "step {step}, answered as done");
        }
        assert_eq!(erase(&gateway, &admin, &name).await, Ok(json!({})), "step {step}");
        assert_eq!(left(&documents(&indices).await, &name), NOTHING, "step {step} failed, and it was done again");
        if first.is_ok() && rule.seen() == 0 {
            break;
        }
    }
    assert!(failed > 4, "{failed} steps");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_goes_on_when_its_client_has_gone() {
    let indices = Indices::new();
    let proxy = FaultProxy::start(elastic_address()).await;
    let gateway = gateway_over(&indices, &proxy).await;
    let admin = gateway.admin("keeper").await.token;
    person(&gateway, "alice").await;
    let sessions = |_: &hyper::Method, path: &str| path.contains("-sessions") && path.contains("/_refresh");
    let held = proxy.rule(sessions, When::Always, Fault::Hold);
    let left_before = tokio::select! {
        erased = erase(&gateway, &admin, "alice") => panic!("it was not held: {erased:?}"),
        () = held.wait_for(1) => left(&documents(&indices).await, "alice"),
    };
    assert!(left_before.contains(&ADDRESS.to_owned()), "the sessions are still there: {left_before:?}");
    held.release();
    let gone = async {
        while left(&documents(&indices).await, "alice") != NOTHING {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let gone = tokio::time::timeout(PATIENCE, gone).await;
    assert!(gone.is_ok(), "left: {:?}", left(&documents(&indices).await, "alice"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_was_proven_before_the_erasure_leaves_nothing() {
    let indices = Indices::new();
    let proxy = FaultProxy::start(elastic_address()).await;
    let gateway = gateway_over(&indices, &proxy).await;
    let admin = gateway.admin("keeper").await.token;
    person(&gateway, "alice").await;
    let sessions = |method: &hyper::Method, path: &str| method == hyper::Method::PUT && path.contains("-sessions");
    let held = proxy.rule(sessions, When::Times(1), Fault::Hold);
    let login = json!({"login": "alice", "password": PASSWORD, "device": "alicexdevice"});
    let erased = async {
        held.wait_for(1).await;
        assert_eq!(erase(&gateway, &admin, "alice").await, Ok(json!({})));
        held.release();
    };
    let (login, ()) = tokio::join!(gateway.call(None, "auth.login", login), erased);
    assert_eq!(login.map_err(|failure| failure.code), Err(1004));
    assert_eq!(left(&documents(&indices).await, "alice"), NOTHING);
}
