//! The users of a load: made before it, and read after it from a gateway and from the feed.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use doorward::clock::Clock;
use doorward::store::{PasswordHash, Position, Record, Store, StoreError};
use doorward::users::rules::{self, Act};
use doorward::users::{Email, Role, Username};
use serde_json::json;

use super::consumer::{Consumer, Numbers};
use super::history::State;
use crate::feed::recorded::is_passing;
use crate::support::{Home, PASSWORD, PATIENCE, Process, TestClient};

/// Users that a load changes.
const USERS: usize = 300;
/// The most records of one answer: few, so that there are many.
const PAGE: usize = 50;

/// Puts users into a new home, without the hashes that they would cost, and the admin `keeper`, whom no load changes.
/// Gives the names that a load may change.
pub async fn seed(home: &Home) -> Vec<String> {
    let store = home.store().await;
    let mut names = Vec::new();
    for number in 0..USERS {
        let name = format!("user{number:03}");
        let email = Email::parse(&format!("{name}@example.com")).unwrap();
        let act = Act { actor: None, at: Clock::default().now(), reason: None };
        let user = rules::create(Username::parse(&name).unwrap(), email, None, Role::User, act);
        store.user_create(user, PasswordHash::new("none".to_owned())).await.unwrap();
        names.push(name);
    }
    store.close().await;
    let mut command = home.command(&[]);
    command.args(["admin", "create", "keeper", "--email", "keeper@example.com", "--password-stdin"]);
    let ended = Process::run(command, PASSWORD).await;
    assert_eq!((ended.code, ended.said().as_str()), (Some(0), ""));
    names
}

/// A consumer at the start of the feed.
pub async fn consumer(home: &Home, numbers: Numbers) -> Consumer {
    let store = home.store().await;
    let consumer = Consumer::new(store.start().await.unwrap(), numbers);
    store.close().await;
    consumer
}

/// The access token of `keeper`.
pub async fn keeper(gateway: SocketAddr) -> String {
    let mut keeper = TestClient::connect(gateway, &[]).await;
    keeper.login("keeper").await;
    keeper.token
}

/// Every user, as a gateway tells an admin.
async fn users_now(gateway: SocketAddr, token: &str) -> BTreeMap<String, State> {
    let header = format!("Bearer {token}");
    let mut admin = TestClient::connect(gateway, &[("authorization", &header)]).await;
    let mut users = BTreeMap::new();
    let mut params = json!({"limit": 200});
    loop {
        let asked = async || admin.call("users.list", params.clone()).await;
        let page = at_last(asked, |failure| is_passing(&failure.data)).await;
        for user in page["users"].as_array().unwrap() {
            users.insert(user["username"].as_str().unwrap().to_owned(), State::read(user));
        }
        if page["next_cursor"].is_null() {
            return users;
        }
        params["cursor"] = page["next_cursor"].clone();
    }
}

/// How far the feed is.
pub async fn position(store: &dyn Store) -> Position {
    at_last(async || store.position().await, passes).await
}

/// Asks until there is an answer. Where several servers make a cluster, they move shards when one has returned, and a
/// shard that moves is away for a moment.
async fn at_last<T, E: Debug>(mut ask: impl AsyncFnMut() -> Result<T, E>, passes: impl Fn(&E) -> bool) -> T {
    let began = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => assert!(passes(&error) && began.elapsed() < PATIENCE, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn passes(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable(_) | StoreError::Timeout)
}

/// Everything written behind a position, and the position that includes it.
pub async fn changes_since(store: &dyn Store, position: &Position) -> (Vec<Record>, Position) {
    let (mut records, mut position) = (Vec::new(), position.clone());
    loop {
        let changes = at_last(async || store.changes_after(&position, PAGE).await, passes).await;
        records.extend(changes.records);
        position = changes.position;
        if !changes.more {
            return (records, position);
        }
    }
}

/// The users when nothing is written any more, and what is wrong with the changes since the consumer last looked.
pub async fn catch_up(
    consumer: &mut Consumer,
    home: &Home,
    gateway: SocketAddr,
    token: &str,
) -> (BTreeMap<String, State>, Vec<String>) {
    let store = home.store().await;
    let (mut records, mut end) = changes_since(&*store, consumer.position()).await;
    let users = loop {
        let users = users_now(gateway, token).await;
        let (more, position) = changes_since(&*store, &end).await;
        // What a gateway had sent when it was killed may be written a little later.
        if position == end {
            break users;
        }
        records.extend(more);
        end = position;
    };
    store.close().await;
    let wrong = consumer.take(&records, end, &users);
    (users, wrong)
}
