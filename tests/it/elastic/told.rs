//! What a client is told, and what it costs to tell, when the store fails or the right to ask goes in the middle of a call.

use std::process::Stdio;
use std::time::Duration;

use hyper::Method;
use serde_json::json;

use crate::support::elastic::elastic_address;
use crate::support::proxy::{Fault, FaultProxy, JSON, When};
use crate::support::{Home, Indices, PASSWORD, PATIENCE, Process, TestClient, TestGateway};

const NEW: &str = "another horse 8 battery";

/// A gateway with a proxy before its store.
async fn rig() -> (Indices, FaultProxy, TestGateway) {
    let (indices, proxy) = (Indices::new(), FaultProxy::start(elastic_address()).await);
    let gateway = TestGateway::over(indices.config_at(&proxy.url())).await;
    (indices, proxy, gateway)
}

#[tokio::test]
async fn r08_what_fails_after_a_new_password_was_written_is_not_told_as_nothing_changed() {
    let (indices, proxy, gateway) = rig().await;
    let mut alice = gateway.logged_in("alice").await;
    // The password is the user's document; her session, that follows it, is another.
    proxy.rule(|_, path| path.contains("-sessions") && !path.contains("-users"), When::Always, Fault::CutBefore);
    let params = json!({"current_password": PASSWORD, "new_password": NEW});
    let failure = alice.call("auth.change_password", params).await.unwrap_err();
    assert_eq!((failure.code, &failure.data["retryable"]), (1503, &json!(false)));
    // This gateway may still be cautious with a store that failed it.
    let other = TestGateway::over(indices.config()).await;
    other.call(None, "auth.login", json!({"login": "alice", "password": NEW})).await.unwrap();
}

#[tokio::test]
async fn s23_a_read_that_the_store_does_not_answer_is_told_as_1502() {
    let (_indices, proxy, gateway) = rig().await;
    let mut alice = gateway.logged_in("alice").await;
    let held = proxy.rule(|_, path| path.contains("-users"), When::Always, Fault::Hold);
    let failure = alice.call("users.get", json!({"username": "nobody"})).await.unwrap_err();
    assert_eq!((failure.code, &failure.data["kind"]), (1502, &json!("store_timeout")));
    assert_eq!(failure.data["retryable"], true);
    held.release();
}

#[tokio::test]
async fn s24_what_the_store_refuses_for_good_is_our_failure_whose_cause_the_log_has() {
    let (home, proxy) = (Home::elastic(Indices::new()), FaultProxy::start(elastic_address()).await);
    let mut command = home.command(&[("ES_URL", &proxy.url()), ("DOORWARD_LOG_FORMAT", "json")]);
    command.stderr(Stdio::piped());
    let mut gateway = Process::spawn(command).await;
    let mut log = gateway.stderr();
    let mut alice = TestClient::connect(gateway.address, &[]).await;
    alice.register("alice").await;
    let refused = r#"{"error":{"type":"parsing_exception","reason":"no such query"},"status":400}"#;
    proxy.rule(|_, path| path.contains("-users"), When::Always, Fault::Answer(400, JSON, refused));
    for (method, params) in [
        ("users.list", json!({})),
        ("users.search", json!({"text": "alice"})),
        ("users.get", json!({"username": "nobody"})),
        ("users.update", json!({"username": "me", "patch": {"bio": "new"}})),
    ] {
        let failure = alice.call(method, params).await.unwrap_err();
        assert_eq!((failure.code, &failure.data["kind"]), (-32603, &json!("internal")), "{method}");
        assert_eq!(failure.data["retryable"], false, "{method}");
        let id = failure.data["request_id"].as_str().unwrap().to_owned();
        let line = async {
            loop {
                let line = log.next_line().await.unwrap().expect("it runs");
                if line.contains(&id) {
                    return line;
                }
            }
        };
        let line = tokio::time::timeout(PATIENCE, line).await.expect("it is logged");
        assert!(line.contains("ERROR") && line.contains("400 parsing_exception"), "{line}");
    }
}

#[tokio::test]
async fn r06_what_became_of_a_write_is_told_within_the_time_of_a_call_however_short_that_is() {
    let (indices, proxy) = (Indices::new(), FaultProxy::start(elastic_address()).await);
    let token = TestGateway::over(indices.config()).await.logged_in("alice").await.token;
    let home = Home::elastic(indices);
    let gateway = home.start(&[("ES_URL", &proxy.url()), ("DOORWARD_CALL_TIMEOUT_SECONDS", "2")]).await;
    let mut alice = TestClient::reach(gateway.address, &token).await.expect("it serves");
    let held = r#"{"error":{"type":"cluster_block_exception","reason":"index [users] blocked by: [FORBIDDEN/8/index write (api)];"},"status":403}"#;
    let is_write = |method: &Method, path: &str| method == Method::PUT && path.contains("-users");
    proxy.rule(is_write, When::Always, Fault::Answer(403, JSON, held));
    let bio = json!({"username": "me", "patch": {"bio": "not written"}});
    let failure = alice.call("users.update", bio).await.unwrap_err();
    // Either says that nothing was changed.
    assert!([1501, 1502].contains(&failure.code), "{failure:?}");
}

#[tokio::test]
async fn s23_a_write_whose_answer_is_lost_with_the_store_is_told_as_1503() {
    let (_indices, proxy, gateway) = rig().await;
    let mut alice = gateway.logged_in("alice").await;
    let write =
        proxy.rule(|method, path| method == Method::PUT && path.contains("-users"), When::Always, Fault::CutAfter);
    // Nobody can read back what became of it.
    let read_back =
        move |method: &Method, path: &str| method == Method::GET && path.contains("-users") && write.seen() > 0;
    proxy.rule(read_back, When::Always, Fault::CutBefore);
    let bio = json!({"username": "me", "patch": {"bio": "written"}});
    let failure = alice.call("users.update", bio).await.unwrap_err();
    assert_eq!((failure.code, &failure.data["kind"]), (1503, &json!("outcome_unknown")));
    assert_eq!(failure.data["retryable"], false);
    proxy.clear();
    let read = async {
        loop {
            // The gateway asks again once it dares to.
            if let Ok(user) = gateway.call(Some(&alice.token), "users.get_many", json!({"usernames": ["alice"]})).await
            {
                return user["users"][0]["bio"].clone();
            }
        }
    };
    let bio = tokio::time::timeout(crate::support::PATIENCE, read).await.expect("the store is back");
    assert_eq!(bio, "written");
}

#[tokio::test]
async fn s14_what_was_read_for_a_caller_who_is_revoked_meanwhile_is_not_told_over_http() {
    let (indices, proxy, gateway) = rig().await;
    // Not in the memory of the gateway that is asked.
    TestGateway::over(indices.config()).await.logged_in("someone").await;
    let mut root = gateway.admin("keeper").await;
    for (method, params, held) in [
        ("users.get", json!({"username": "someone"}), "/_doc/someone"),
        ("users.get_many", json!({"usernames": ["someone"]}), "/_mget"),
        ("users.find_by_email", json!({"email": "someone@example.com"}), "-emails/_doc"),
        ("users.list", json!({}), "-users/_search"),
        ("users.list", json!({"count": "exact"}), "-users/_count"),
        ("users.search", json!({"text": "someone"}), "-users/_search"),
        ("auth.sessions", json!({"username": "someone"}), "-sessions-000001/_refresh"),
    ] {
        let name = format!("a{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
        let token = gateway.admin(&name).await.token;
        // What is read for the feed names its shard.
        let matches = move |_: &Method, path: &str| path.contains(held) && !path.contains("preference");
        let read = proxy.rule(matches, When::Times(1), Fault::Hold);
        let revoke = async {
            read.wait_for(1).await;
            root.call("users.set_role", json!({"username": name, "role": "user"})).await.unwrap();
            read.release();
        };
        let (told, ()) = tokio::join!(gateway.call(Some(&token), method, params.clone()), revoke);
        assert_eq!(told.map_err(|failure| failure.code), Err(1004), "{method}");
        proxy.clear();
        root.call(method, params).await.unwrap();
    }
}

#[tokio::test]
async fn s06_a_failed_login_asks_the_store_the_same_whoever_there_is() {
    let (indices, proxy, gateway) = rig().await;
    gateway.logged_in("alice").await;
    let mut bob = gateway.logged_in("bob").await;
    bob.call("users.deactivate", json!({"username": "me"})).await.unwrap();
    // Whom this gateway has not met.
    let mut carol = TestGateway::over(indices.config()).await.logged_in("carol").await;
    carol.call("system.ping", json!({})).await.unwrap();
    for form in ["", "@example.com"] {
        let mut reads = Vec::new();
        for name in ["alice", "alice", "bob", "carol", "nobody", "nobody", "admin"] {
            let read = proxy.rule(
                |method, path| method == Method::GET && path.contains("/_doc/"),
                When::Always,
                Fault::DelayRequest(Duration::ZERO),
            );
            let params = json!({"login": format!("{name}{form}"), "password": "none of their passwords"});
            assert_eq!(gateway.call(None, "auth.login", params).await.unwrap_err().code, 1005, "{name}{form}");
            reads.push(read.seen());
            proxy.clear();
        }
        assert!(reads[0] > 0 && reads.iter().all(|count| *count == reads[0]), "{form}: {reads:?}");
    }
}
