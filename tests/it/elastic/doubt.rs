//! What is told of a write that may have been done, or whose document others delete, when the store fails a second time.

use std::time::{Duration, Instant};

use doorward::store::{PasswordChange, Store, StoreError};
use doorward::users::{Email, User};
use hyper::Method;
use serde_json::Value;

use super::behind::{NO_MASTER, fall_behind, is_write};
use super::{Faulty, open};
use crate::store::contract::{create, get, hash, name, next, user};
use crate::store::sessions::{origin, session};
use crate::support::elastic::elastic_url;
use crate::support::proxy::{Fault, FaultProxy, JSON, When};
use crate::support::{Indices, bound};

const BUSY: &str = r#"{"error":{"type":"es_rejected_execution_exception","reason":"busy"},"status":429}"#;
const MOVING: &str = r#"{"error":{"type":"cluster_block_exception","reason":"index [users] blocked by: [FORBIDDEN/8/index write (api)];"},"status":403}"#;
const READ_ONLY: &str = r#"{"error":{"type":"cluster_block_exception","reason":"index [users] blocked by: [FORBIDDEN/5/index read-only (api)];"},"status":403}"#;
const REFUSED: &str = r#"{"error":{"type":"illegal_argument_exception","reason":"no"},"status":400}"#;
const MISSING: &str = r#"{"error":{"type":"index_not_found_exception","reason":"no such index"},"status":404}"#;

/// Everything by which Elasticsearch says that it did nothing, or that it may have.
const FAILURES: [Fault; 6] = [
    Fault::Answer(429, JSON, BUSY),
    Fault::Answer(403, JSON, MOVING),
    Fault::Answer(403, JSON, READ_ONLY),
    Fault::Answer(400, JSON, REFUSED),
    Fault::Answer(404, JSON, MISSING),
    Fault::Answer(503, JSON, NO_MASTER),
];

/// The first attempt is done and its answer lost; the second is answered by the server, which has a conflict with the
/// first; whatever follows fails like this.
fn lose_the_answer_and_then(proxy: &FaultProxy, failure: Fault) {
    proxy.rule(is_write, When::Always, failure);
    proxy.rule(is_write, When::Times(1), Fault::DelayRequest(Duration::ZERO));
    proxy.rule(is_write, When::Times(1), Fault::CutAfter);
}

#[tokio::test]
async fn r08_a_write_in_doubt_is_never_told_as_not_done_whatever_fails_afterwards() {
    for failure in FAILURES {
        let indices = Indices::new();
        // So patient that the second attempt comes after the first was done.
        let (clean, faulty) = (open(&indices).await, Faulty::with_timeout(&indices, Duration::from_secs(4)).await);
        lose_the_answer_and_then(&faulty.proxy, failure.clone());
        fall_behind(&faulty.proxy, &indices, "alice", 1_000).await;
        let created = faulty.store.user_create(user("alice"), hash("hash")).await;
        assert!(matches!(created, Err(StoreError::OutcomeUnknown(_))), "{failure:?}: {created:?}");
        get(&clean, "alice").await;

        faulty.proxy.clear();
        create(&clean, &user("bob")).await;
        lose_the_answer_and_then(&faulty.proxy, failure.clone());
        fall_behind(&faulty.proxy, &indices, "bob", 1_000).await;
        let changed = next(&user("bob"), |bob| bob.bio = "changed".into());
        let answer = faulty.store.user_replace(changed, PasswordChange::Keep).await;
        assert!(matches!(answer, Err(StoreError::OutcomeUnknown(_))), "{failure:?}: {answer:?}");
        assert_eq!(get(&clean, "bob").await.bio, "changed");
    }
}

#[tokio::test]
async fn r08_a_write_that_was_done_before_it_was_refused_is_told_as_done() {
    for failure in FAILURES {
        let indices = Indices::new();
        let (clean, faulty) = (open(&indices).await, Faulty::with_timeout(&indices, Duration::from_secs(4)).await);
        create(&clean, &user("alice")).await;
        faulty.proxy.rule(is_write, When::Always, failure.clone());
        faulty.proxy.rule(is_write, When::Times(1), Fault::CutAfter);
        let changed = next(&user("alice"), |alice| alice.bio = "changed".into());
        let answer = faulty.store.user_replace(changed.clone(), PasswordChange::Keep).await;
        assert!(answer.is_ok(), "{failure:?}: {answer:?}");
        assert_eq!(get(&clean, "alice").await, changed);
    }
}

/// Deletes a document, as another gateway does.
async fn delete(indices: &Indices, kind: &str, id: &str) {
    let url = format!("{}/{}-{kind}/_doc/{id}", elastic_url(), indices.prefix);
    reqwest::Client::new().delete(url).send().await.unwrap().error_for_status().unwrap();
}

#[tokio::test]
async fn an_address_that_is_released_while_another_wants_it_is_theirs_at_once() {
    let indices = Indices::new();
    let (clean, faulty) = (open(&indices).await, Faulty::open(&indices).await);
    create(&faulty.store, &user("alice")).await;
    // Her former address stays reserved for a moment.
    faulty.proxy.rule(|method, _| method == Method::DELETE, When::Always, Fault::CutBefore);
    let moved = next(&user("alice"), |alice| alice.email = Some(Email::parse("new@example.com").unwrap()));
    faulty.store.user_replace(moved, PasswordChange::Keep).await.unwrap();
    faulty.proxy.clear();
    indices.refresh("emails").await;
    let found = format!("{}/{}-emails/_search?q=state:held", elastic_url(), indices.prefix);
    let found: Value = reqwest::get(found).await.unwrap().json().await.unwrap();
    assert_eq!(found["hits"]["total"]["value"], 2, "{found}");

    let is_reservation = |method: &Method, path: &str| *method == Method::PUT && path.contains("-emails");
    let reserve = faulty.proxy.rule(
        move |method, path| is_reservation(method, path) && path.contains("if_seq_no"),
        When::Times(1),
        Fault::Hold,
    );
    let dave = User { email: user("alice").email, ..user("dave") };
    let create = async {
        let created = faulty.store.user_create(dave, hash("hash")).await;
        (created, Instant::now())
    };
    let release = async {
        reserve.wait_for(1).await;
        for hit in found["hits"]["hits"].as_array().unwrap() {
            delete(&indices, "emails", hit["_id"].as_str().unwrap()).await;
        }
        let began = Instant::now();
        reserve.release();
        began
    };
    let ((created, ended), began) = tokio::join!(create, release);
    created.unwrap();
    assert!(ended - began < bound(Duration::from_millis(500)), "it took {:?}", ended - began);
    let owner = clean.user_get_by_email(&user("alice").email.unwrap()).await.unwrap().unwrap();
    assert_eq!(owner.username, name("dave"));
}

#[tokio::test]
async fn a_session_that_is_cleared_away_while_it_is_written_is_none_at_once() {
    let indices = Indices::new();
    let faulty = Faulty::open(&indices).await;
    let first = session("alice", 0);
    faulty.store.session_create(first.clone()).await.unwrap();
    let is_write = |method: &Method, path: &str| *method == Method::PUT && path.contains("-sessions");
    let write = faulty.proxy.rule(is_write, When::Times(1), Fault::Hold);
    let seen = first.seen(origin(), doorward::clock::Time::from_ms(7));
    let cleared = async {
        write.wait_for(1).await;
        delete(&indices, "sessions", &first.id.to_string()).await;
        write.release();
        Instant::now()
    };
    let (answer, began) = tokio::join!(faulty.store.session_replace(seen), cleared);
    assert_eq!(answer, Err(StoreError::NotFound));
    assert!(began.elapsed() < bound(Duration::from_millis(500)), "it took {:?}", began.elapsed());
}
