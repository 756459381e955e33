//! R11: gateways are replaced one after the other under load, and nobody who tries again where that is safe loses a call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::recorded::{Gateways, Nodes, is_passing, record};
use crate::support::{Home, Indices, TestClient, count};

/// Who calls on sockets, and as many over HTTP.
const CALLERS: usize = 6;

/// What became of a call: its result, or `None` where a further attempt is safe after a look.
type Outcome = Option<Value>;

/// Calls once on a socket; a new one takes its place when it has ended.
async fn on_socket(nodes: &mut Nodes, client: &mut TestClient, method: &str, params: &Value) -> Outcome {
    client.begin(method, params.clone()).await;
    loop {
        match client.frame().await {
            None => {
                *client = nodes.connect().await;
                return None;
            }
            Some(frame) if frame.get("method").is_some() => {}
            Some(reply) => return judged(reply),
        }
    }
}

/// Calls once over HTTP, on whichever gateway there is.
async fn over_http(nodes: &Nodes, http: &reqwest::Client, method: &str, params: &Value) -> Outcome {
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    let request = http.post(format!("http://{}/rpc", nodes.any()?)).bearer_auth(&nodes.admin_token);
    let response = request.header("content-type", "application/json").body(call.to_string()).send().await.ok()?;
    let text = response.text().await.expect("an answer that was begun comes whole");
    judged(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

/// A write may be tried again under its condition: once the first attempt has had its effect, that is refused with 1203.
fn judged(reply: Value) -> Outcome {
    let Some(error) = reply.get("error") else { return Some(reply["result"].clone()) };
    let unknown = [1203, 1503].contains(&error["code"].as_i64().unwrap());
    assert!(unknown || is_passing(&error["data"]), "a call failed: {error}");
    None
}

/// Changes a user of its own again and again, each change exactly once. Answers with changes and further attempts.
async fn change(mut nodes: Nodes, name: String, by_socket: bool, stop: Arc<AtomicBool>) -> (u64, u64) {
    let (mut client, http) = (nodes.connect().await, reqwest::Client::new());
    let mut rev = 1;
    let (mut changes, mut further) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let bio = format!("change {changes}");
        let update = json!({"username": name, "patch": {"bio": bio}, "if_rev": rev});
        let get = json!({"username": name});
        let mut look = false;
        let user = loop {
            let (method, params) = if look { ("users.get", &get) } else { ("users.update", &update) };
            let outcome = match by_socket {
                true => on_socket(&mut nodes, &mut client, method, params).await,
                false => over_http(&nodes, &http, method, params).await,
            };
            match outcome {
                Some(result) if result["user"]["bio"] == bio => break result["user"].clone(),
                // Read, and not changed yet: perhaps not known there yet, which the condition will tell.
                Some(_) => look = false,
                None => (look, further) = (true, further + 1),
            }
        };
        assert_eq!(user["rev"], rev + 1, "made once, and seen by whom it was made for");
        (rev, changes) = (rev + 1, changes + 1);
    }
    (changes, further)
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_three_gateways_are_replaced_without_a_failed_call_or_a_lost_change() {
    let (gateways, nodes) = Gateways::start(Home::elastic(Indices::new()), 3).await;
    let mut admin = nodes.clone().connect().await;
    let names: Vec<String> = (0..2 * CALLERS).map(|number| format!("caller{number}")).collect();
    for name in &names {
        admin.create(name).await;
    }
    let callers = nodes.clone();
    let replaced = async {
        let (stop, mut calling) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        for (number, name) in names.into_iter().enumerate() {
            calling.spawn(change(callers.clone(), name, number < CALLERS, stop.clone()));
        }
        let gateways = gateways.be_restarted(count(1, 10)).await;
        stop.store(true, Ordering::Relaxed);
        let (mut changes, mut further) = (0, 0);
        while let Some(done) = calling.join_next().await {
            let done = done.unwrap();
            (changes, further) = (changes + done.0, further + done.1);
        }
        eprintln!("{changes} changes by {} callers, each made once, with {further} further attempts", 2 * CALLERS);
        gateways
    };
    record(nodes, Duration::ZERO, replaced).await;
}
