//! Sessions: going on with one, looking at them, ending them.

mod chains;
mod nodes;
mod password;
mod stale;

use std::time::Duration;

use doorward::users::Username;
use serde_json::{Value, json};

use crate::support::{PASSWORD, PATIENCE, TestClient, TestGateway};

/// Logs in over HTTP.
async fn log_in(gateway: &TestGateway, username: &str, device: &str) -> Value {
    let params = json!({"login": username, "password": PASSWORD, "device": device});
    gateway.call(None, "auth.login", params).await.unwrap()
}

fn access(signed_in: &Value) -> &str {
    signed_in["tokens"]["access_token"].as_str().unwrap()
}

/// Uses the refresh token of a login or of an earlier refresh: the next tokens, or the code of the error.
async fn refresh(gateway: &TestGateway, before: &Value) -> Result<Value, i64> {
    let params = json!({"refresh_token": before["tokens"]["refresh_token"]});
    gateway.call(None, "auth.refresh", params).await.map_err(|failure| failure.code)
}

/// What an access token is good for: the code of the error, or 0.
async fn judged(gateway: &TestGateway, token: &str) -> i64 {
    gateway.call(Some(token), "users.get", json!({"username": "me"})).await.map_or_else(|failure| failure.code, |_| 0)
}

/// The devices of the caller's sessions, oldest first.
async fn devices(gateway: &TestGateway, token: &str) -> Vec<String> {
    let listed = gateway.call(Some(token), "auth.sessions", json!({})).await.unwrap();
    let sessions = listed["sessions"].as_array().unwrap();
    sessions.iter().map(|session| session["device"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Waits until a question is answered so.
async fn until<T: PartialEq>(expected: T, ask: impl AsyncFn() -> T) {
    let answered = async {
        while ask().await != expected {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, answered).await.expect("it is so in time");
}

/// A new user whose registration is a session without a device.
async fn registered(gateway: &TestGateway, username: &str) -> TestClient {
    gateway.logged_in(username).await
}

fn members(object: &Value) -> Vec<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test]
async fn a_login_tells_its_session_and_tokens() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.socket().await;
    let on_socket = alice.register("alice").await;
    for (signed_in, sockets) in [(on_socket, 1), (log_in(&gateway, "alice", "a script").await, 0)] {
        let (session, tokens) = (&signed_in["session"], &signed_in["tokens"]);
        let known = ["address", "created_at", "current", "device", "id", "last_seen_at", "sockets", "user_agent"];
        assert_eq!(members(session), known);
        assert_eq!((&session["current"], &session["sockets"]), (&json!(true), &json!(sockets)));
        assert_eq!(session["address"], "127.0.0.1");
        let known = ["access_token", "expires_in", "refresh_expires_in", "refresh_token", "token_type"];
        assert_eq!(members(tokens), known);
        assert_eq!((&tokens["expires_in"], &tokens["refresh_expires_in"]), (&json!(900), &json!(86_400)));
    }
}

#[tokio::test]
async fn s13_a_refresh_gives_new_tokens_and_closes_nothing() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.socket().await;
    let first = alice.register("alice").await;
    let second = refresh(&gateway, &first).await.unwrap();
    assert_eq!(members(&second), ["tokens"]);
    for tokens in [&first, &second] {
        assert_eq!(judged(&gateway, access(tokens)).await, 0);
    }
    assert_ne!(first["tokens"]["refresh_token"], second["tokens"]["refresh_token"]);
    // Also on a socket, which it extends by auth.authenticate.
    let third = json!({"refresh_token": second["tokens"]["refresh_token"]});
    let third = alice.call("auth.refresh", third).await.unwrap();
    let extended = alice.call("auth.authenticate", json!({"access_token": access(&third)})).await.unwrap();
    assert_eq!(extended["session"]["id"], first["session"]["id"]);
}

#[tokio::test]
async fn s13_a_token_that_was_used_before_ends_the_session() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.socket().await;
    let first = alice.register("alice").await;
    let other = log_in(&gateway, "alice", "another").await;
    let second = refresh(&gateway, &first).await.unwrap();
    let third = refresh(&gateway, &second).await.unwrap();
    assert_eq!(refresh(&gateway, &first).await, Err(1004));
    assert_eq!(alice.revoked().await, ("session_ended".to_owned(), 4503));
    for ended in [&first, &second, &third] {
        assert_eq!(judged(&gateway, access(ended)).await, 1004);
        assert_eq!(refresh(&gateway, ended).await, Err(1004));
    }
    assert_eq!(judged(&gateway, access(&other)).await, 0);
    refresh(&gateway, &other).await.unwrap();
}

#[tokio::test]
async fn s13_the_immediate_predecessor_gets_the_same_successor_for_ten_seconds() {
    let gateway = TestGateway::start().await;
    let first = gateway.socket().await.register("alice").await;
    let second = refresh(&gateway, &first).await.unwrap();
    gateway.clock.advance(Duration::from_secs(8));
    let again = refresh(&gateway, &first).await.unwrap();
    assert_eq!(again["tokens"]["refresh_token"], second["tokens"]["refresh_token"]);
    gateway.clock.advance(Duration::from_secs(2));
    assert_eq!(refresh(&gateway, &first).await, Err(1004));
    assert_eq!(refresh(&gateway, &second).await, Err(1004), "it ended the session");
}

#[tokio::test]
async fn s13_what_is_no_token_of_ours_ends_nothing() {
    let gateway = TestGateway::start().await;
    let first = gateway.socket().await.register("alice").await;
    let token = first["tokens"]["refresh_token"].as_str().unwrap();
    for malformed in ["", "x", &token[1..], &format!("{token}A"), access(&first)] {
        assert_eq!(refresh(&gateway, &json!({"tokens": {"refresh_token": malformed}})).await, Err(1003), "{malformed}");
    }
    // The last character but one has no bits that the encoding leaves unused.
    let at = token.len() - 2;
    let other = if &token[at..=at] == "A" { "B" } else { "A" };
    let forged = format!("{}{other}{}", &token[..at], &token[at + 1..]);
    assert_eq!(refresh(&gateway, &json!({"tokens": {"refresh_token": forged}})).await, Err(1004));
    // Nor is it good for anything else.
    assert_eq!(judged(&gateway, token).await, 1003);
    refresh(&gateway, &first).await.unwrap();
}

#[tokio::test]
async fn a_session_expires_when_idle_and_when_old() {
    let gateway = TestGateway::start().await;
    registered(&gateway, "alice").await;
    let idle = log_in(&gateway, "alice", "idle").await;
    let mut used = log_in(&gateway, "alice", "used").await;
    let mut days = 0;
    while let Ok(next) = refresh(&gateway, &used).await {
        used = next;
        gateway.clock.advance(Duration::from_secs(86_400 - 60));
        days += 1;
        if days == 2 {
            assert_eq!(refresh(&gateway, &idle).await, Err(1002));
        }
    }
    assert_eq!((days, refresh(&gateway, &used).await), (31, Err(1002)), "30 days, less a minute each");
    assert_eq!(devices(&gateway, access(&log_in(&gateway, "alice", "new").await)).await, ["new"]);
}

#[tokio::test]
async fn logging_out_ends_the_sessions_of_its_scope() {
    let gateway = TestGateway::start().await;
    let mut alice = registered(&gateway, "alice").await;
    for device in ["a", "b", "c"] {
        log_in(&gateway, "alice", device).await;
    }
    let own = log_in(&gateway, "alice", "own").await;
    let ended = async |scope: Value| {
        let ended = gateway.call(Some(access(&own)), "auth.logout", scope).await.unwrap();
        (ended["sessions_ended"].as_u64().unwrap(), ended["sockets_closed"].as_u64().unwrap())
    };
    assert_eq!(ended(json!({"scope": "others"})).await, (4, 1));
    assert_eq!(alice.revoked().await, ("session_ended".to_owned(), 4503));
    assert_eq!(devices(&gateway, access(&own)).await, ["own"]);
    assert_eq!(ended(json!({})).await, (1, 0));
    assert_eq!(judged(&gateway, access(&own)).await, 1004);

    // On a socket the reply comes before the close.
    let mut alice = gateway.socket().await;
    alice.login("alice").await;
    log_in(&gateway, "alice", "another").await;
    let ended = alice.call("auth.logout", json!({"scope": "all"})).await.unwrap();
    assert_eq!(ended, json!({"sessions_ended": 2, "sockets_closed": 1}));
    assert_eq!(alice.revoked().await, ("session_ended".to_owned(), 4503));
    assert!(devices(&gateway, access(&log_in(&gateway, "alice", "x").await)).await == ["x"]);
}

#[tokio::test]
async fn sessions_are_shown_to_their_owner_and_to_admins() {
    let gateway = TestGateway::start().await;
    let (mut keeper, bob) = (gateway.admin("keeper").await, gateway.logged_in("bob").await);
    let alice = registered(&gateway, "alice").await;
    let headers = [("authorization", &*format!("Bearer {}", alice.token)), ("user-agent", "a browser")];
    let mut second = TestClient::connect(gateway.address, &headers).await;
    let script = log_in(&gateway, "alice", "a script").await;

    let own = second.call("auth.sessions", json!({})).await.unwrap();
    let sessions = own["sessions"].as_array().unwrap();
    let short = |session: &Value| (session["device"].clone(), session["current"].clone(), session["sockets"].clone());
    let shown: Vec<_> = sessions.iter().map(short).collect();
    assert_eq!(shown, [(Value::Null, json!(true), json!(2)), (json!("a script"), json!(false), json!(0))]);

    let of_alice = json!({"username": "alice"});
    let shown = keeper.call("auth.sessions", of_alice.clone()).await.unwrap();
    assert!(shown["sessions"].as_array().unwrap().iter().all(|session| session["current"] == false));
    assert_eq!(shown["sessions"].as_array().unwrap().len(), 2);
    assert_eq!(keeper.call("auth.sessions", json!({"username": "nobody"})).await.unwrap_err().code, 1201);
    for who in ["alice", "nobody"] {
        let refused = gateway.call(Some(&bob.token), "auth.sessions", json!({"username": who})).await.unwrap_err();
        assert_eq!(refused.code, 1101);
    }

    // Others' and nobody's are refused alike; one's own ends, for an admin anyone's, and once.
    let script = json!({"session": script["session"]["id"]});
    for session in [script.clone(), json!({"session": uuid::Uuid::nil()})] {
        let refused = gateway.call(Some(&bob.token), "auth.end_session", session).await.unwrap_err();
        assert_eq!(refused.code, 1101);
    }
    let (one, none) =
        (json!({"sessions_ended": 1, "sockets_closed": 0}), json!({"sessions_ended": 0, "sockets_closed": 0}));
    assert_eq!(second.call("auth.end_session", script.clone()).await.unwrap(), one);
    assert_eq!(second.call("auth.end_session", script).await.unwrap(), none);
    let first = json!({"session": sessions[0]["id"]});
    let ended = keeper.call("auth.end_session", first).await.unwrap();
    assert_eq!(ended, json!({"sessions_ended": 1, "sockets_closed": 2}));
    assert_eq!(second.revoked().await, ("session_ended".to_owned(), 4503));
}

#[tokio::test]
async fn it_is_written_at_most_once_a_minute_that_a_session_was_seen() {
    let gateway = TestGateway::start().await;
    let alice = registered(&gateway, "alice").await;
    let seen = async || {
        let listed = gateway.call(Some(&alice.token), "auth.sessions", json!({})).await.unwrap();
        let [session] = listed["sessions"].as_array().unwrap().as_slice() else { panic!("{listed}") };
        (session["created_at"] == session["last_seen_at"], session["address"].clone())
    };
    gateway.clock.advance(Duration::from_secs(50));
    for _ in 0..5 {
        assert!(seen().await.0);
    }
    gateway.clock.advance(Duration::from_secs(11));
    until((false, json!("127.0.0.1")), seen).await;
}

#[tokio::test]
async fn a_socket_that_is_only_open_is_seen_once_a_minute() {
    let gateway = TestGateway::with(|config| config.timeouts.ping = Duration::from_millis(20)).await;
    let mut alice = gateway.socket().await;
    let signed_in = alice.register("alice").await;
    let id = signed_in["session"]["id"].as_str().unwrap().parse().unwrap();
    let store = gateway.server().app().rpc.context.store.clone();
    let session = async || store.session_get(id).await.unwrap().unwrap();
    let begun = session().await;
    let mut pings = async |count| {
        for _ in 0..count {
            alice.ping().await;
        }
    };
    pings(5).await;
    assert_eq!(session().await, begun);
    for minutes in 1..=2 {
        gateway.clock.advance(Duration::from_secs(61));
        let before = gateway.clock.now().ms();
        tokio::time::timeout(PATIENCE, async {
            while session().await.rev == minutes {
                pings(1).await;
            }
        })
        .await
        .expect("it is written in time");
        pings(5).await;
        let seen = session().await;
        assert!(seen.rev == minutes + 1 && seen.last_seen_at.ms() >= before, "{seen:?}");
        assert_eq!((seen.sockets.len(), seen.sockets[0].count), (1, 1));
    }
}

#[tokio::test]
async fn sockets_on_other_gateways_are_counted_as_far_as_these_have_told() {
    let often = |config: &mut doorward::config::Config| config.timeouts.ping = Duration::from_millis(20);
    let first = TestGateway::with(often).await;
    let Some(second) = first.sibling().await else { return };
    let mut alice = first.socket().await;
    let signed_in = alice.register("alice").await;
    let sockets = async || {
        let listed = second.call(Some(access(&signed_in)), "auth.sessions", json!({})).await.unwrap();
        listed["sessions"][0]["sockets"].as_u64().unwrap()
    };
    let pass = |seconds| {
        for gateway in [&first, &second] {
            gateway.clock.advance(Duration::from_secs(seconds));
        }
    };
    assert_eq!(sockets().await, 0, "not told yet");
    pass(61);
    tokio::time::timeout(PATIENCE, async {
        while sockets().await == 0 {
            alice.ping().await;
        }
    })
    .await
    .expect("it is told in time");
    let mut other = second.socket().await;
    other.call("auth.authenticate", json!({"access_token": access(&signed_in)})).await.unwrap();
    assert_eq!(sockets().await, 2);
    drop(alice);
    pass(150);
    assert_eq!(sockets().await, 1);
}

#[tokio::test]
async fn nothing_personal_is_left_in_the_sessions_of_an_erased_user() {
    let gateway = TestGateway::start().await;
    let (mut keeper, alice) = (gateway.admin("keeper").await, registered(&gateway, "alice").await);
    log_in(&gateway, "alice", "alice's phone").await;
    let store = &gateway.server().app().rpc.context.store;
    let sessions = store.sessions_of(&Username::parse("alice").unwrap()).await.unwrap();
    assert_eq!(sessions.len(), 2);
    keeper.call("users.erase", json!({"username": "alice"})).await.unwrap();
    for session in sessions {
        let left = store.session_get(session.id).await.unwrap().unwrap();
        assert!(left.ended && left.device.is_none() && left.user_agent.is_none() && left.address.is_unspecified());
    }
    assert_eq!(judged(&gateway, &alice.token).await, 1004);
}

#[tokio::test]
async fn malformed_parameters_are_refused_by_their_path() {
    let gateway = TestGateway::start().await;
    let mut alice = registered(&gateway, "alice").await;
    for (method, params, path) in [
        ("auth.refresh", json!({}), "refresh_token"),
        ("auth.refresh", json!({"refresh_token": 1}), "refresh_token"),
        ("auth.logout", json!({"scope": "everyone"}), "scope"),
        ("auth.logout", json!({"scopes": "all"}), "scopes"),
        ("auth.change_password", json!({"new_password": "x"}), "current_password"),
        ("auth.change_password", json!({"current_password": PASSWORD, "new_password": null}), "new_password"),
        ("auth.sessions", json!({"username": "-"}), "username"),
        ("auth.end_session", json!({}), "session"),
        ("auth.end_session", json!({"session": "x"}), "session"),
    ] {
        let failure = alice.call(method, params.clone()).await.unwrap_err();
        let told = (failure.code, failure.data["fields"][0]["path"].as_str());
        assert_eq!(told, (-32602, Some(path)), "{method} {params}");
    }
}

#[tokio::test]
async fn s11_no_access_token_outlives_its_session() {
    let gateway = TestGateway::with(|config| config.sessions.whole = Duration::from_secs(600)).await;
    let mut alice = gateway.socket().await;
    let first = alice.register("alice").await;
    let left = |tokens: &Value| tokens["tokens"]["expires_in"].as_u64().unwrap();
    assert!((599..=600).contains(&left(&first)), "{first}");
    gateway.clock.advance(Duration::from_secs(500));
    let next = refresh(&gateway, &first).await.unwrap();
    assert!((95..=100).contains(&left(&next)), "{next}");
    assert_eq!(judged(&gateway, access(&next)).await, 0);
    gateway.clock.advance(Duration::from_secs(131));
    assert_eq!(judged(&gateway, access(&next)).await, 1002);
}
