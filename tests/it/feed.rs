//! The users feed: subscribe, resume anywhere, miss nothing.

mod apart;
mod contact;
mod held;
mod history;
mod positions;
mod reads;
pub mod recorded;
mod rights;
mod rolling;
mod seam;
mod slow;
mod watch;

use serde_json::{Value, json};

use crate::support::{TestClient, TestGateway};

/// Changes one's own bio and gives the new revision.
async fn change(client: &mut TestClient, bio: &str) -> u64 {
    let patch = json!({"username": "me", "patch": {"bio": bio}});
    client.call("users.update", patch).await.unwrap()["user"]["rev"].as_u64().unwrap()
}

/// What a notification tells in short: of whom, which revision, and how.
fn told(params: &Value) -> (String, u64, String) {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&params["user"]["username"]), params["user"]["rev"].as_u64().unwrap(), text(&params["scope"]))
}

#[tokio::test]
async fn a_change_is_told_in_the_closed_shape_of_the_contract() {
    let gateway = TestGateway::start().await;
    let (mut alice, mut bob) = (gateway.logged_in("alice").await, gateway.logged_in("bob").await);
    let subscribed = bob.call("users.subscribe", json!({})).await.unwrap();
    assert_eq!(subscribed["subscription"], 1);
    assert!(subscribed["position"].is_string() && subscribed.as_object().unwrap().len() == 2, "{subscribed}");
    change(&mut alice, "one").await;
    change(&mut bob, "two").await;

    let of_alice = bob.notification("users.changed").await;
    let members: Vec<_> = of_alice.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(members, ["actor", "at", "fields", "kind", "position", "scope", "subscription", "user"]);
    assert_eq!((&of_alice["kind"], &of_alice["fields"]), (&json!("updated"), &json!(["bio"])));
    assert_eq!((&of_alice["actor"], &of_alice["user"]["bio"]), (&json!("alice"), &json!("one")));
    assert!(of_alice["user"].get("email").is_none(), "the public form to others");
    let of_bob = bob.notification("users.changed").await;
    assert_eq!(of_bob["user"]["email"], "bob@example.com", "the full form to the user");
}

#[tokio::test]
async fn a_private_field_is_not_named_to_those_who_may_not_read_it() {
    let gateway = TestGateway::start().await;
    let (mut admin, mut bob) = (gateway.admin("keeper").await, gateway.logged_in("bob").await);
    gateway.logged_in("alice").await;
    for client in [&mut admin, &mut bob] {
        client.call("users.subscribe", json!({})).await.unwrap();
    }
    let patch = json!({"username": "alice", "patch": {"email": "new@example.com", "bio": "x"}});
    admin.call("users.update", patch).await.unwrap();
    assert_eq!(bob.notification("users.changed").await["fields"], json!(["bio"]));
    assert_eq!(admin.notification("users.changed").await["fields"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_filter_tells_who_comes_in_and_who_goes_out_and_nobody_else() {
    let gateway = TestGateway::start().await;
    let mut admin = gateway.admin("keeper").await;
    let mut alice = gateway.logged_in("alice").await;
    let filter = json!({"display_name": {"prefix": "x"}});
    admin.call("users.subscribe", json!({"filter": filter})).await.unwrap();
    for name in ["aa", "xa", "xb", "bb", "cc", "xc"] {
        let patch = json!({"username": "me", "patch": {"display_name": name}});
        alice.call("users.update", patch).await.unwrap();
    }
    let mut seen = Vec::new();
    for _ in 0..4 {
        let params = admin.notification("users.changed").await;
        let (_, rev, scope) = told(&params);
        if scope == "out" {
            assert_eq!(params["user"], json!({"username": "alice", "rev": rev}));
        }
        seen.push((rev, scope));
    }
    assert_eq!(seen, [(3, "in".into()), (4, "in".into()), (5, "out".into()), (7, "in".into())]);
}

#[tokio::test]
async fn the_reply_to_subscribe_comes_before_its_first_notification_also_in_a_batch() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("alice").await;
    let call =
        |id: u64, method: &str, params: Value| json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
    let change = call(3, "users.update", json!({"username": "me", "patch": {"bio": "in the batch"}}));
    let batch =
        json!([call(1, "users.subscribe", json!({"since": "start"})), change, call(2, "users.list", json!({}))]);
    alice.send(batch.to_string()).await;
    let first: Value = serde_json::from_str(&alice.text().await).unwrap();
    assert!(first.is_array(), "{first}");
    loop {
        if alice.notification("users.changed").await["user"]["bio"] == "in the batch" {
            break;
        }
    }
}

#[tokio::test]
async fn no_more_are_resumed_than_a_socket_may_have() {
    let gateway = TestGateway::with(|config| config.limits.subscriptions = 2).await;
    let alice = gateway.logged_in("alice").await;
    let mut back = gateway.socket().await;
    let resume = ["x", "start", "start", "x"].map(|since| json!({"since": since}));
    let params = json!({"access_token": alice.token, "resume": resume});
    let resumed = back.call("auth.authenticate", params).await.unwrap()["subscriptions"].clone();
    assert_eq!((&resumed[0]["error"]["code"], &resumed[1]["subscription"]), (&json!(1402), &json!(1)));
    // Whatever they ask for, they are not looked at.
    assert_eq!([&resumed[2], &resumed[3]].map(|refused| &refused["error"]["code"]), [-32006; 2]);
}

#[tokio::test]
async fn the_reply_comes_first_also_when_several_subscriptions_are_resumed() {
    let gateway = TestGateway::start().await;
    let alice = gateway.logged_in("alice").await;
    let mut back = gateway.socket().await;
    let resume = vec![json!({"since": "start"}); 8];
    back.begin("auth.authenticate", json!({"access_token": alice.token, "resume": resume})).await;
    let reply = back.frame().await.unwrap();
    assert_eq!(reply["result"]["subscriptions"].as_array().map(Vec::len), Some(8), "{reply}");
    for _ in 0..8 {
        back.notification("users.changed").await;
    }
}

#[tokio::test]
async fn s20_a_subscription_whose_reply_is_too_large_to_be_sent_is_ended() {
    let gateway = TestGateway::with(|config| {
        config.limits.reply_bytes = 30 << 10;
        config.limits.subscriptions = 10;
    })
    .await;
    let mut alice = gateway.logged_in("alice").await;
    let patch = json!({"username": "me", "patch": {"attributes": {"filling": "x".repeat(3 << 10)}}});
    alice.call("users.update", patch).await.unwrap();

    let fits = |reply: &Value| reply.get("result").is_some();
    let call = |method: &str, params: &Value| json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    let fill = call("users.get", &json!({"username": "me"}));
    let batch = [vec![fill; 30], vec![call("users.subscribe", &json!({})); 10]].concat();
    let replies: Vec<Value> = serde_json::from_str(&alice.exchange(json!(batch).to_string()).await).unwrap();
    assert_eq!((replies.iter().filter(|reply| fits(reply)).count(), fits(&replies[30])), (8, false));

    let mut bob = gateway.logged_in("bob").await;
    let snapshots = json!({"access_token": bob.token, "resume": vec![json!({"snapshot": {}}); 10]});
    assert_eq!(bob.call("auth.authenticate", snapshots).await.unwrap_err().code, -32008);

    for client in [&mut alice, &mut bob] {
        for _ in 0..10 {
            client.call("users.subscribe", json!({})).await.unwrap();
        }
        assert_eq!(client.call("users.subscribe", json!({})).await.unwrap_err().code, -32006);
    }
    change(&mut alice, "told ten times").await;
    for client in [&mut alice, &mut bob] {
        let mut told = Vec::new();
        for _ in 0..10 {
            told.push(client.notification("users.changed").await["subscription"].as_u64().unwrap());
        }
        told.sort_unstable();
        assert_eq!(told, (11..=20).collect::<Vec<_>>(), "the ten before are gone");
    }
}

#[tokio::test]
async fn a_subscription_that_has_ended_tells_nothing_and_the_others_go_on() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("alice").await;
    for id in 1..=2 {
        assert_eq!(alice.call("users.subscribe", json!({})).await.unwrap()["subscription"], id);
    }
    assert_eq!(alice.call("users.unsubscribe", json!({"subscription": 1})).await.unwrap(), json!({}));
    assert_eq!(alice.call("users.unsubscribe", json!({"subscription": 1})).await.unwrap_err().code, 1403);
    for bio in ["one", "two"] {
        change(&mut alice, bio).await;
        let params = alice.notification("users.changed").await;
        assert_eq!((&params["subscription"], &params["user"]["bio"]), (&json!(2), &json!(bio)));
    }
}

#[tokio::test]
async fn a_refused_subscription_says_why_and_leaves_the_others_alone() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("alice").await;
    alice.call("users.subscribe", json!({})).await.unwrap();
    for (params, code, path) in [
        (json!({"filter": {"email": {"prefix": "a"}}}), 1404, "filter.email"),
        (json!({"filter": {"shoe_size": {"eq": 1}}}), -32602, "filter.shoe_size"),
        (json!({"snapshot": {"sort": "shoe_size"}}), -32602, "snapshot.sort"),
        (json!({"snapshot": {"sort": "email"}}), 1404, "snapshot.sort"),
        (json!({"snapshot": {"limit": 0}}), -32602, "snapshot.limit"),
        (json!({"snapshot": {"cursor": "x"}}), -32602, "snapshot.cursor"),
        (json!({"since": "start", "snapshot": {}}), -32602, "since"),
        (json!({"since": 7}), -32602, "since"),
        (json!({"from": "start"}), -32602, "from"),
    ] {
        let failure = alice.call("users.subscribe", params.clone()).await.unwrap_err();
        assert_eq!((failure.code, &failure.data["fields"][0]["path"]), (code, &json!(path)), "{params}");
    }
    for subscription in [json!({"subscription": 9}), json!({"subscription": 0})] {
        assert_eq!(alice.call("users.unsubscribe", subscription).await.unwrap_err().code, 1403);
    }
    for _ in 1..32 {
        alice.call("users.subscribe", json!({"filter": {"rev": {"eq": 0}}})).await.unwrap();
    }
    let failure = alice.call("users.subscribe", json!({})).await.unwrap_err();
    assert_eq!((failure.code, &failure.data["kind"]), (-32006, &json!("too_many_subscriptions")));
    change(&mut alice, "still told").await;
    assert_eq!(alice.notification("users.changed").await["subscription"], 1);
    let info = alice.call("system.info", json!({})).await.unwrap();
    assert_eq!(info["limits"]["subscriptions_per_socket"], 32);
}

#[tokio::test]
async fn a_returning_client_has_all_its_subscriptions_back_in_one_round_trip() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("alice").await;
    let since = alice.call("users.subscribe", json!({})).await.unwrap()["position"].clone();
    let rev = change(&mut alice, "missed").await;
    let mut back = gateway.socket().await;
    let resume = json!([{"since": since}, {"since": "nowhere"}, {"snapshot": {"sort": "-username", "limit": 1}}]);
    let params = json!({"access_token": alice.token, "resume": resume});
    let authenticated = back.call("auth.authenticate", params).await.unwrap();
    let subscriptions = authenticated["subscriptions"].as_array().unwrap();
    assert_eq!(subscriptions[0]["subscription"], 1);
    assert_eq!(subscriptions[1]["error"]["code"], 1402);
    assert_eq!(subscriptions[2]["snapshot"]["users"][0]["username"], "alice");
    assert_eq!(told(&back.notification("users.changed").await), ("alice".to_owned(), rev, "in".to_owned()));
}

#[tokio::test]
async fn a_script_polls_and_waits_over_http() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("alice").await;
    let token = Some(alice.token.clone());
    let ask = async |params: Value| gateway.call(token.as_deref(), "users.changes", params).await;
    let now = ask(json!({})).await.unwrap();
    assert_eq!((&now["changes"], &now["more"]), (&json!([]), &json!(false)));
    let waiting =
        ask(json!({"since": now["position"], "wait_ms": 30_000, "filter": {"display_name": {"eq": "alice"}}}));
    let (_, found) = tokio::join!(change(&mut alice, "at last"), waiting);
    let found = found.unwrap();
    assert_eq!(found["changes"][0]["user"]["bio"], "at last");
    assert!(found["changes"][0].get("subscription").is_none());
    assert_eq!(found["changes"][0]["position"], found["position"]);
    let rest = ask(json!({"since": found["position"], "wait_ms": 1})).await.unwrap();
    assert_eq!((&rest["changes"], &rest["more"]), (&json!([]), &json!(false)));
    for (params, code) in [
        (json!({"since": "x"}), 1402),
        (json!({"wait_ms": 30_001}), -32602),
        (json!({"limit": 201}), -32602),
        (json!({"filter": {"email": {"exists": true}}}), 1404),
    ] {
        assert_eq!(ask(params).await.unwrap_err().code, code);
    }
    let failure = gateway.call(token.as_deref(), "users.subscribe", json!({})).await.unwrap_err();
    assert_eq!((failure.code, &failure.data["reason"]), (-32601, &json!("websocket_only")));
}

#[tokio::test]
async fn a_stopping_gateway_answers_those_who_wait_for_a_change() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("alice").await;
    let now = alice.call("users.changes", json!({})).await.unwrap()["position"].clone();
    alice.begin("users.changes", json!({"since": now, "wait_ms": 30_000})).await;
    alice.call("system.ping", json!({})).await.unwrap_or_default();
    let (reply, ()) = tokio::join!(alice.frame(), gateway.stop());
    let mut reply = reply.unwrap();
    while reply.get("result").is_none() {
        reply = alice.frame().await.unwrap();
    }
    assert_eq!(reply["result"]["position"], now);
}
