//! Sessions and logins beside a store that is behind, busy or slow.

use std::sync::Arc;
use std::time::{Duration, Instant};

use doorward::auth::password::Password;
use doorward::users::{Session, Username};
use hyper::Method;
use serde_json::json;

use super::{access, judged, log_in, refresh, until};
use crate::support::elastic::elastic_address;
use crate::support::proxy::{Fault, FaultProxy, When};
use crate::support::{Indices, PASSWORD, TestGateway};

#[tokio::test]
async fn a_refresh_token_that_is_ahead_of_what_is_read_does_not_end_its_session() {
    let gateway = TestGateway::start().await;
    let first = gateway.socket().await.register("alice").await;
    let store = gateway.server().app().rpc.context.store.clone();
    let id = serde_json::from_value(first["session"]["id"].clone()).unwrap();
    let before = store.session_get(id).await.unwrap().unwrap();
    let second = refresh(&gateway, &first).await.unwrap();
    let after = store.session_get(id).await.unwrap().unwrap();
    // As a copy that is behind would give it.
    let behind = Session { rev: after.rev + 1, ..before };
    store.session_replace(behind.clone()).await.unwrap();
    assert_eq!(refresh(&gateway, &second).await, Err(1501));
    let caught_up = async {
        tokio::task::yield_now().await;
        store.session_replace(Session { rev: behind.rev + 1, ..after }).await.unwrap();
    };
    let (third, ()) = tokio::join!(refresh(&gateway, &second), caught_up);
    let third = match third {
        Ok(third) => third,
        Err(1501) => refresh(&gateway, &second).await.unwrap(),
        Err(code) => panic!("{code}"),
    };
    assert_eq!(judged(&gateway, access(&third)).await, 0);
}

#[tokio::test]
async fn a_login_does_not_wait_until_its_hash_of_lower_cost_is_replaced() {
    let pepper = || Some("a pepper that only this test knows 12345".to_owned().into());
    let former = TestGateway::with(|config| config.password_pepper = pepper()).await;
    former.logged_in("alice").await;
    let gateway = TestGateway::with(|config| {
        (config.password_pepper, config.bcrypt_cost, config.hash_threads) = (pepper(), 11, 1);
    })
    .await;
    let name = Username::parse("alice").unwrap();
    let [old, new] = [&former, &gateway].map(|gateway| gateway.server().app().rpc.context.store.clone());
    let user = old.user_get(&name).await.unwrap().unwrap();
    let weak = old.password_get(&name).await.unwrap().unwrap();
    new.user_create(doorward::users::User::clone(&user), weak.clone()).await.unwrap();
    let signed_in = log_in(&gateway, "alice", "a phone").await;
    assert_eq!(new.password_get(&name).await.unwrap(), Some(weak.clone()), "it was answered before");
    assert_eq!(judged(&gateway, access(&signed_in)).await, 0);
    until(false, async || new.password_get(&name).await.unwrap() == Some(weak.clone())).await;
    log_in(&gateway, "alice", "a phone").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_has_only_waited_is_told_to_come_back_however_long_the_store_took() {
    let indices = Indices::new();
    let proxy = FaultProxy::start(elastic_address()).await;
    let gateway = TestGateway::with(|config| {
        crate::support::keep_users_in(indices.config_at(&proxy.url()), config);
        (config.bcrypt_cost, config.hash_threads, config.call_timeout) = (10, 1, Duration::from_secs(3));
    })
    .await;
    gateway.logged_in("alice").await;
    let users = |method: &Method, path: &str| method == Method::GET && path.contains("-users/");
    proxy.rule(users, When::Always, Fault::DelayAnswer(Duration::from_millis(500)));
    let hasher = Arc::new(gateway.server().app().rpc.context.clone());
    // Work for longer than a call lasts.
    let busy: Vec<_> = (0..400)
        .map(|_| {
            let context = hasher.clone();
            tokio::spawn(async move { context.hasher.hash(Password::parse(PASSWORD).unwrap()).await })
        })
        .collect();
    let login = gateway.call(None, "auth.login", json!({"login": "alice", "password": PASSWORD})).await;
    assert_eq!(login.map_err(|failure| failure.code), Err(1303));
    busy.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_sessions_has_the_index_refreshed_only_where_something_was_written() {
    let indices = Indices::new();
    let proxy = FaultProxy::start(elastic_address()).await;
    let gateway = TestGateway::over(indices.config_at(&proxy.url())).await;
    let alice = gateway.logged_in("alice").await;
    let list = async || {
        let listed = gateway.call(Some(&alice.token), "auth.sessions", json!({})).await.unwrap();
        listed["sessions"].as_array().unwrap().len()
    };
    let sessions = |_: &Method, path: &str| path.contains("-sessions") && path.contains("/_refresh");
    let refreshes = proxy.rule(sessions, When::Always, Fault::DelayAnswer(Duration::ZERO));
    let mut lists = Vec::new();
    for _ in 0..5 {
        lists.extend(futures_util::future::join_all((0..20).map(|_| list())).await);
    }
    assert!(lists.iter().all(|&sessions| sessions == 1), "{lists:?}");
    assert!(refreshes.seen() <= 3, "{} refreshes for 100 lists", refreshes.seen());
    // What was written since is there, whoever wrote it.
    let other = TestGateway::over(indices.config()).await;
    let before = refreshes.seen();
    log_in(&other, "alice", "a phone").await;
    assert_eq!(list().await, 2);
    // One for the list, and one for the tail, which looks for ended sessions where something was written.
    assert!((1..=2).contains(&(refreshes.seen() - before)), "{} refreshes", refreshes.seen() - before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_session_is_one_read_and_one_write() {
    let indices = Indices::new();
    let proxy = FaultProxy::start(elastic_address()).await;
    let gateway = TestGateway::over(indices.config_at(&proxy.url())).await;
    let alice = gateway.logged_in("alice").await;
    let count = |asked: Method| {
        let asks = move |method: &Method, path: &str| {
            *method == asked && path.contains("-sessions") && path.contains("/_doc/")
        };
        proxy.rule(asks, When::Always, Fault::DelayAnswer(Duration::ZERO))
    };
    let (reads, writes) = (count(Method::GET), count(Method::PUT));
    gateway.call(Some(&alice.token), "auth.logout", json!({})).await.unwrap();
    assert_eq!((reads.seen(), writes.seen()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_does_not_wait_for_the_clearing_away_of_former_ones() {
    let indices = Indices::new();
    let proxy = FaultProxy::start(elastic_address()).await;
    let gateway = TestGateway::over(indices.config_at(&proxy.url())).await;
    gateway.logged_in("alice").await;
    let searches = |_: &Method, path: &str| path.contains("-sessions") && path.contains("/_search");
    let held = proxy.rule(searches, When::Always, Fault::Hold);
    let login = tokio::spawn({
        let (http, url) = (reqwest::Client::new(), format!("http://{}/rpc", gateway.address));
        let params = json!({"login": "alice", "password": PASSWORD});
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": "auth.login", "params": params}).to_string();
        async move {
            let request = http.post(url).header("content-type", "application/json").body(call);
            request.send().await.unwrap().text().await.unwrap()
        }
    });
    held.wait_for(1).await;
    let answered = tokio::time::timeout(Duration::from_millis(300), login).await;
    assert!(answered.expect("it is answered while the search is held").unwrap().contains("\"tokens\""));
    held.release();
}

#[tokio::test]
async fn of_too_many_sessions_those_that_would_expire_first_end() {
    let gateway = TestGateway::start().await;
    let alice = gateway.socket().await.register("alice").await;
    for _ in 0..104 {
        gateway.clock.advance(Duration::from_millis(10));
        log_in(&gateway, "alice", "a script").await;
    }
    let newest = log_in(&gateway, "alice", "a phone").await;
    let listed = async || {
        let listed = gateway.call(Some(access(&newest)), "auth.sessions", json!({})).await.unwrap();
        listed["sessions"].as_array().unwrap().len()
    };
    // Nobody waits for the room to be made, and on Elasticsearch a login does not count those of the last second: where too
    // many are left after it, a later login makes the room.
    let room = async || {
        let began = Instant::now();
        while listed().await > 100 && began.elapsed() < Duration::from_secs(2) {
            tokio::task::yield_now().await;
        }
        listed().await <= 100
    };
    for _ in 0..5 {
        if room().await {
            break;
        }
        gateway.clock.advance(Duration::from_millis(10));
        log_in(&gateway, "alice", "a tablet").await;
    }
    assert_eq!(listed().await, 100);
    assert_eq!(judged(&gateway, access(&alice)).await, 1004);
    assert_eq!(refresh(&gateway, &alice).await, Err(1004));
    refresh(&gateway, &newest).await.unwrap();
}
