//! Places: resumed anywhere, refused where they do not belong, never misread.

use doorward::feed::position::Place;
use doorward::store::Position;
use doorward::store::elastic::{ElasticConfig, migrate};
use rusqlite::Connection;
use serde_json::{Value, json};

use super::{change, told};
use crate::support::{Home, Indices, TestClient, TestGateway};

#[tokio::test]
async fn what_is_not_a_position_of_this_data_set_is_refused() {
    let (gateway, other) = (TestGateway::start().await, TestGateway::start().await);
    let mut alice = gateway.logged_in("alice").await;
    let foreign = other.logged_in("alice").await.call("users.changes", json!({})).await.unwrap()["position"].clone();
    let own = alice.call("users.changes", json!({})).await.unwrap()["position"].as_str().unwrap().to_owned();
    let edit = |edit: &dyn Fn(&mut Place)| {
        let mut place = Place::decode(&own).unwrap();
        edit(&mut place);
        json!(place.encode())
    };
    let mut damaged = own.clone().into_bytes();
    let last = damaged.len() - 2;
    damaged[last] ^= 1;
    for (what, since) in [
        ("malformed", json!("x")),
        ("empty", json!("")),
        ("damaged", json!(String::from_utf8(damaged).unwrap())),
        ("cut", json!(own[..own.len() - 4])),
        ("of another data set", foreign),
        ("of a recreated store", edit(&|place| place.position.history = "0".repeat(32))),
        ("from the future", edit(&|place| place.position.numbers[0] += 1)),
        ("beyond every number", edit(&|place| place.position.numbers[0] = u64::MAX)),
        ("of more shards", edit(&|place| place.position.numbers.push(0))),
        ("of no shard", edit(&|place| place.position.numbers.clear())),
        ("of a former index", edit(&|place| place.position.former = Some(Box::new(place.position.clone())))),
    ] {
        for method in ["users.subscribe", "users.changes"] {
            let failure = alice.call(method, json!({"since": since})).await.expect_err(what);
            assert_eq!((failure.code, &failure.data["kind"]), (1402, &json!("position_unknown")), "{what}");
        }
    }
    alice.call("users.subscribe", json!({"since": own})).await.unwrap();
    change(&mut alice, "still here").await;
    assert_eq!(alice.notification("users.changed").await["subscription"], 1);
}

/// The check of a position is no secret: whoever can count can write one.
#[tokio::test]
async fn what_no_former_index_can_have_given_is_refused_before_the_store_is_asked() {
    let indices = Indices::new();
    let gateway = TestGateway::over(indices.config()).await;
    let mut alice = gateway.logged_in("alice").await;
    let former = alice.call("users.changes", json!({})).await.unwrap()["position"].as_str().unwrap().to_owned();
    migrate(&ElasticConfig { shards: 2, ..indices.config() }, &[], &|_| {}).await.unwrap();
    // Good, and one that has not read all of what was copied.
    alice.call("users.subscribe", json!({"since": former})).await.unwrap();
    let own = alice.call("users.changes", json!({})).await.unwrap()["position"].as_str().unwrap().to_owned();
    let edit = |text: &str, edit: &dyn Fn(&mut Place)| {
        let mut place = Place::decode(text).unwrap();
        edit(&mut place);
        json!(place.encode())
    };
    let of_former = Place::decode(&former).unwrap().position;
    for (what, since) in [
        ("of very many shards", edit(&former, &|place| place.position.numbers = vec![0; 5_000])),
        ("of no shard", edit(&former, &|place| place.position.numbers.clear())),
        ("beyond every number", edit(&former, &|place| place.position.numbers[0] = u64::MAX)),
        ("seen beyond every number", edit(&former, &|place| place.floor = Some(vec![u64::MAX]))),
        ("of itself before", edit(&former, &|place| place.position.former = Some(Box::new(of_former.clone())))),
        (
            "of very many shards before",
            edit(&own, &|place| {
                place.position.former = Some(Box::new(Position { numbers: vec![0; 5_000], ..of_former.clone() }));
            }),
        ),
        (
            "beyond every number before",
            edit(&own, &|place| {
                place.position.former = Some(Box::new(Position { numbers: vec![u64::MAX], ..of_former.clone() }));
            }),
        ),
    ] {
        for method in ["users.subscribe", "users.changes"] {
            let failure = alice.call(method, json!({"since": since})).await.expect_err(what);
            assert_eq!((failure.code, &failure.data["kind"]), (1402, &json!("position_unknown")), "{what}");
        }
    }
}

#[tokio::test]
async fn from_the_start_come_the_newest_states_of_all_in_small_pages_and_then_what_changes() {
    const USERS: usize = 40;
    let gateway = TestGateway::start().await;
    for number in 0..USERS {
        let mut user = gateway.logged_in(&format!("user{number}")).await;
        change(&mut user, "once").await;
        change(&mut user, "twice").await;
    }
    let mut alice = gateway.logged_in("alice").await;
    alice.call("users.subscribe", json!({"since": "start"})).await.unwrap();
    for number in 0..USERS {
        let params = alice.notification("users.changed").await;
        assert_eq!(told(&params), (format!("user{number}"), 3, "in".to_owned()));
    }
    assert_eq!(told(&alice.notification("users.changed").await).0, "alice");
    change(&mut alice, "now").await;
    assert_eq!(told(&alice.notification("users.changed").await), ("alice".to_owned(), 2, "in".to_owned()));
}

/// A state that was replaced before it could be read is in no page. Its successor is judged as one of which nothing is
/// known, however many pages lie between, and also by a client that goes on from a position in between.
#[tokio::test]
async fn who_left_a_filter_in_a_state_that_was_passed_over_is_told_as_out() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("alice").await;
    let filter = json!({"display_name": {"eq": "alice"}});
    let before = alice.call("users.changes", json!({})).await.unwrap()["position"].clone();
    alice.call("users.update", json!({"username": "me", "patch": {"display_name": "gone"}})).await.unwrap();
    for number in 0..40 {
        gateway.logged_in(&format!("user{number}")).await;
    }
    change(&mut alice, "her former state is hidden by this one").await;

    let mut position = before.clone();
    let mut outs = Vec::new();
    loop {
        let page = alice.call("users.changes", json!({"since": position, "filter": filter, "limit": 3})).await.unwrap();
        outs.extend(page["changes"].as_array().unwrap().iter().map(told));
        position = page["position"].clone();
        if page["more"] == false {
            break;
        }
    }
    assert_eq!(outs, [("alice".to_owned(), 3, "out".to_owned())]);
    let page = json!({"since": before, "limit": 3});
    let between = alice.call("users.changes", page).await.unwrap()["changes"][1]["position"].clone();
    alice.call("users.subscribe", json!({"since": between, "filter": filter})).await.unwrap();
    assert_eq!(told(&alice.notification("users.changed").await), ("alice".to_owned(), 3, "out".to_owned()));
}

#[tokio::test]
async fn positions_of_indices_that_were_deleted_and_made_anew_are_refused() {
    let indices = Indices::new();
    let gateway = TestGateway::over(indices.config()).await;
    let mut alice = gateway.logged_in("alice").await;
    let early = alice.call("users.subscribe", json!({})).await.unwrap()["position"].clone();
    change(&mut alice, "gone soon").await;
    let late = alice.notification("users.changed").await["position"].clone();

    let all = format!("{}/{}-*?expand_wildcards=all", indices.url, indices.prefix);
    reqwest::Client::new().delete(all).send().await.unwrap().error_for_status().unwrap();
    let anew = TestGateway::over(indices.config()).await;
    assert_eq!(alice.closed().await.0, 1012);
    let mut alice = anew.logged_in("alice").await;
    // More numbers than there were.
    for _ in 0..5 {
        change(&mut alice, "another alice").await;
    }
    for gateway in [&anew, &gateway] {
        assert_refused(gateway, &alice.token, &[&early, &late]).await;
    }
}

#[tokio::test]
async fn positions_are_refused_when_an_older_database_was_restored_as_documented() {
    let home = Home::embedded();
    let gateway = home.start(&[]).await;
    let mut alice = TestClient::connect(gateway.address, &[]).await;
    alice.register("alice").await;
    let early = alice.call("users.changes", json!({})).await.unwrap()["position"].clone();
    change(&mut alice, "in the copy").await;
    let (database, copy) = (home.data().join("doorward.db"), home.data().join("copy.db"));
    let backup = format!("VACUUM INTO '{}'", copy.display());
    Connection::open(&database).unwrap().execute_batch(&backup).unwrap();
    change(&mut alice, "after the copy").await;
    let late = alice.call("users.changes", json!({})).await.unwrap()["position"].clone();
    let token = alice.token.clone();
    gateway.kill().await;

    for file in ["doorward.db", "doorward.db-wal", "doorward.db-shm"] {
        std::fs::remove_file(home.data().join(file)).unwrap();
    }
    std::fs::rename(copy, &database).unwrap();
    Connection::open(&database).unwrap().execute_batch(&documented_restore()).unwrap();

    let gateway = home.start(&[]).await;
    assert!(TestClient::reach(gateway.address, &token).await.is_none(), "everybody logs in again");
    let mut alice = TestClient::connect(gateway.address, &[]).await;
    assert_eq!(alice.login("alice").await["user"]["bio"], "in the copy");
    for _ in 0..5 {
        change(&mut alice, "another state under the same number").await;
        for since in [&early, &late] {
            let failure = alice.call("users.subscribe", json!({"since": since})).await.unwrap_err();
            assert_eq!(failure.code, 1402);
        }
    }
}

/// The statements that `docs/operations.md` has for a restored database.
fn documented_restore() -> String {
    let command = include_str!("../../../docs/operations.md").split("sqlite3 data/doorward.db \"UPDATE").nth(1);
    let rest = command.expect("it is documented").split('"').next().expect("it ends");
    format!("UPDATE{rest}")
}

/// Each of these places is refused, by every method that takes one.
async fn assert_refused(gateway: &TestGateway, token: &str, places: &[&Value]) {
    let mut client = TestClient::connect(gateway.address, &[("authorization", &format!("Bearer {token}"))]).await;
    for since in places {
        for method in ["users.subscribe", "users.changes"] {
            let failure = client.call(method, json!({"since": since})).await.unwrap_err();
            assert_eq!((failure.code, &failure.data["kind"]), (1402, &json!("position_unknown")));
        }
    }
}
