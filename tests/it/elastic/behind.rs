//! What is read of a write right after it: from a copy that is behind, after others have followed, or of a shard that does
//! not answer. One server has no copies, so the proxy answers as one would.

use std::time::Duration;

use doorward::store::{ListQuery, PasswordChange, Sort, SortField, Store, StoreError, Unique};
use doorward::users::User;
use hyper::Method;
use serde_json::Value;

use super::{Faulty, open};
use crate::store::contract::{create, hash, name, next, user};
use crate::support::Indices;
use crate::support::elastic::elastic_url;
use crate::support::proxy::{Fault, FaultProxy, JSON, When};

/// Has the next `times` looks at this user's document answered with what is there now.
pub(super) async fn fall_behind(proxy: &FaultProxy, indices: &Indices, username: &'static str, times: usize) {
    let path = format!("/{}-users/_doc/{username}", indices.prefix);
    let now = reqwest::get(format!("{}{path}", elastic_url())).await.unwrap();
    let status = now.status().as_u16();
    // A fault's body lives as long as the program.
    let body = now.text().await.unwrap().leak();
    // By whichever name of the index.
    let (users, document) = (format!("/{}-users", indices.prefix), format!("/_doc/{username}"));
    let is_look = move |method: &Method, asked: &str| {
        *method == Method::GET && asked.starts_with(&users) && asked.ends_with(&document)
    };
    proxy.rule(is_look, When::Times(times), Fault::Answer(status, JSON, body));
}

pub(super) fn is_write(method: &Method, path: &str) -> bool {
    *method == Method::PUT && path.contains("-users")
}

#[tokio::test]
async fn r08_a_creation_whose_answer_is_lost_is_found_though_a_copy_is_behind() {
    let indices = Indices::new();
    let (clean, faulty) = (open(&indices).await, Faulty::open(&indices).await);
    faulty.proxy.rule(is_write, When::Times(1), Fault::CutAfter);
    // The look before the creation, and two after it.
    fall_behind(&faulty.proxy, &indices, "alice", 3).await;
    faulty.store.user_create(user("alice"), hash("hash")).await.unwrap();
    let bob = User { email: user("alice").email, ..user("bob") };
    assert_eq!(clean.user_create(bob, hash("hash")).await, Err(StoreError::AlreadyExists(Unique::Email)));
}

#[tokio::test]
async fn r08_a_change_whose_answer_is_lost_is_found_though_a_copy_is_behind() {
    let indices = Indices::new();
    let (clean, faulty) = (open(&indices).await, Faulty::open(&indices).await);
    create(&clean, &user("alice")).await;
    faulty.proxy.rule(is_write, When::Times(1), Fault::CutAfter);
    fall_behind(&faulty.proxy, &indices, "alice", 3).await;
    let changed = next(&user("alice"), |alice| alice.bio = "changed".into());
    faulty.store.user_replace(changed.clone(), PasswordChange::Keep).await.unwrap();
    assert_eq!(clean.user_get(&name("alice")).await.unwrap().as_deref(), Some(&changed));
}

/// What a node answers that has tried again, in vain, what a primary had done before it died, and the master with it.
pub(super) const NO_MASTER: &str = r#"{"error":{"type":"cluster_block_exception","reason":"blocked by: [SERVICE_UNAVAILABLE/2/no master];"},"status":503}"#;

#[tokio::test]
async fn r08_a_change_that_was_done_before_the_cluster_lost_its_master_is_told_as_done() {
    let indices = Indices::new();
    let (clean, faulty) = (open(&indices).await, Faulty::open(&indices).await);
    create(&clean, &user("alice")).await;
    // As often as it is sent.
    faulty.proxy.rule(is_write, When::Always, Fault::AnswerAfter(503, NO_MASTER));
    let changed = next(&user("alice"), |alice| alice.bio = "changed".into());
    faulty.store.user_replace(changed.clone(), PasswordChange::Keep).await.unwrap();
    assert_eq!(clean.user_get(&name("alice")).await.unwrap().as_deref(), Some(&changed));
}

#[tokio::test]
async fn r08_a_change_that_may_have_been_done_before_the_cluster_lost_its_master_is_unknown() {
    let indices = Indices::new();
    let (clean, faulty) = (open(&indices).await, Faulty::open(&indices).await);
    create(&clean, &user("alice")).await;
    faulty.proxy.rule(is_write, When::Always, Fault::Answer(503, JSON, NO_MASTER));
    let changed = next(&user("alice"), |alice| alice.bio = "changed".into());
    let answer = faulty.store.user_replace(changed, PasswordChange::Keep).await;
    assert!(matches!(answer, Err(StoreError::OutcomeUnknown(_))), "{answer:?}");
}

#[tokio::test]
async fn r08_a_write_that_no_copy_shows_is_unknown() {
    let indices = Indices::new();
    let faulty = Faulty::open(&indices).await;
    faulty.proxy.rule(is_write, When::Times(1), Fault::CutAfter);
    fall_behind(&faulty.proxy, &indices, "alice", 1_000).await;
    let answer = faulty.store.user_create(user("alice"), hash("hash")).await;
    assert!(matches!(answer, Err(StoreError::OutcomeUnknown(_))), "{answer:?}");
}

#[tokio::test]
async fn r04_a_write_that_others_have_followed_is_not_told_under_the_number_of_theirs() {
    let indices = Indices::new();
    let (clean, faulty) = (open(&indices).await, Faulty::with_timeout(&indices, Duration::from_secs(4)).await);
    create(&clean, &user("alice")).await;
    let ours = next(&user("alice"), |alice| alice.bio = "ours".into());
    let theirs = next(&ours, |alice| alice.bio = "theirs".into());
    // The answer is lost, and before the second attempt another gateway writes.
    let second = faulty.proxy.rule(is_write, When::Times(1), Fault::Hold);
    faulty.proxy.rule(is_write, When::Times(1), Fault::CutAfter);
    let other = async {
        second.wait_for(1).await;
        clean.user_replace(theirs, PasswordChange::Keep).await.unwrap();
        second.release();
    };
    let (written, ()) = tokio::join!(faulty.store.user_replace(ours, PasswordChange::Keep), other);
    let written = written.unwrap();
    assert_eq!((written.seq, written.record), (None, None));
}

#[tokio::test]
async fn r07_users_of_a_shard_that_does_not_answer_are_not_called_missing() {
    let indices = Indices::new();
    let faulty = Faulty::open(&indices).await;
    create(&faulty.store, &user("alice")).await;
    let body = r#"{"docs":[{"_index":"users","_id":"alice","error":{"type":"no_shard_available_action_exception"}}]}"#;
    let fault = Fault::Answer(200, JSON, body);
    let rule = faulty.proxy.rule(|_, path| path.contains("/_mget"), When::Times(1), fault.clone());
    assert_eq!(faulty.store.user_get_many(&[name("alice")]).await.unwrap().len(), 1);
    assert_eq!(rule.seen(), 1);

    faulty.proxy.rule(|_, path| path.contains("/_mget"), When::Always, fault);
    let answer = faulty.store.user_get_many(&[name("alice")]).await;
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
}

#[tokio::test]
async fn r07_what_fails_the_next_time_too_is_asked_for_once() {
    let indices = Indices::new();
    let faulty = Faulty::open(&indices).await;
    create(&faulty.store, &user("alice")).await;
    let refused = r#"{"error":{"type":"illegal_argument_exception"},"status":400}"#;
    let closed = r#"{"error":{"type":"index_closed_exception"},"status":400}"#;
    let missing = r#"{"error":{"type":"index_not_found_exception"},"status":404}"#;
    // Somebody may open or restore an index; what the server refuses or this program cannot read stays so.
    for (status, body, may_pass) in
        [(400, refused, false), (400, closed, true), (404, missing, true), (200, "{}", false)]
    {
        let rule =
            faulty.proxy.rule(|_, path| path.contains("/_mget"), When::Always, Fault::Answer(status, JSON, body));
        let answer = faulty.store.user_get_many(&[name("alice")]).await;
        match may_pass {
            true => assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{body}: {answer:?}"),
            false => assert!(matches!(answer, Err(StoreError::Unexpected(_))), "{body}: {answer:?}"),
        }
        assert_eq!(rule.seen(), 1, "{answer:?}");
        faulty.proxy.clear();
    }
}

#[tokio::test]
async fn r07_an_answer_without_a_shard_is_none_and_asked_for_again() {
    let indices = Indices::new();
    let faulty = Faulty::open(&indices).await;
    let body = r#"{"timed_out":false,"_shards":{"failed":1},"hits":{"hits":[]},"count":0}"#;
    let sort = Sort { field: SortField::Username, descending: false };
    let all = ListQuery { filter: None, sort, after: None, limit: 10 };
    for (part, username) in [("/_refresh", "alice"), ("/_search", "bob"), ("/_count", "carol")] {
        create(&faulty.store, &user(username)).await;
        let listed = faulty.store.user_list(all.clone()).await.unwrap().users.len();
        create(&faulty.store, &user(&format!("{username}2"))).await;
        let is_part = move |_: &Method, path: &str| path.contains("-users") && path.contains(part);
        let fault = Fault::Answer(200, JSON, body);
        let rule = faulty.proxy.rule(is_part, When::Times(1), fault.clone());
        assert_eq!(faulty.store.user_list(all.clone()).await.unwrap().users.len(), listed + 1, "{part}");
        assert_eq!(faulty.store.user_count(None).await.unwrap(), listed as u64 + 1, "{part}");
        assert_eq!(rule.seen(), 1, "{part}");

        create(&faulty.store, &user(&format!("{username}3"))).await;
        faulty.proxy.rule(is_part, When::Always, fault);
        let (users, count) = (faulty.store.user_list(all.clone()).await.map(drop), faulty.store.user_count(None).await);
        let answer = users.and(count.map(drop));
        assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{part}: {answer:?}");
        faulty.proxy.clear();
    }
}

#[tokio::test]
async fn r07_a_primary_that_is_away_for_a_moment_is_asked_for_again() {
    let indices = Indices::new();
    let faulty = Faulty::open(&indices).await;
    create(&faulty.store, &user("alice")).await;
    let position = faulty.store.position().await.unwrap();
    // As while it moves to another node.
    let nothing = Fault::Answer(200, JSON, r#"{"indices":{}}"#);
    let rule = faulty.proxy.rule(|_, path| path.contains("/_stats"), When::Times(1), nothing.clone());
    assert_eq!(faulty.store.position().await, Ok(position));
    assert_eq!(rule.seen(), 1);

    faulty.proxy.rule(|_, path| path.contains("/_stats"), When::Always, nothing);
    let answer = faulty.store.position().await;
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
}

#[tokio::test]
async fn r04_a_page_waits_for_what_hides_one_of_its_states_from_beyond_its_end() {
    let indices = Indices::new();
    let (clean, faulty) = (open(&indices).await, Faulty::open(&indices).await);
    let start = clean.start().await.unwrap();
    create(&clean, &user("alice")).await;
    for at in 0..5 {
        create(&clean, &user(&format!("user{at}"))).await;
    }
    let stats = format!("{}/{}-users/_stats/docs?level=shards", elastic_url(), indices.prefix);
    let checkpoint = reqwest::get(stats).await.unwrap().text().await.unwrap().leak();
    faulty.proxy.rule(|_, path| path.contains("/_stats"), When::Always, Fault::Answer(200, JSON, checkpoint));
    // Visible, and not final as far as can be told: if it is lost, the state that it hides comes back.
    let changed = next(&user("alice"), |alice| alice.bio = "visible".into());
    clean.user_replace(changed.clone(), PasswordChange::Keep).await.unwrap();
    let page = faulty.store.changes_after(&start, 2).await.unwrap();
    assert_eq!((page.records.len(), &page.position, page.more), (0, &start, true));

    faulty.proxy.clear();
    let page = faulty.store.changes_after(&start, 2).await.unwrap();
    assert_eq!(page.records.iter().map(|record| record.user.username.as_str()).collect::<Vec<_>>(), ["user0", "user1"]);
    let rest = faulty.store.changes_after(&page.position, 10).await.unwrap();
    assert_eq!(rest.records.last().map(|record| &*record.user), Some(&changed));
}

#[tokio::test]
async fn r04_a_state_that_is_written_once_more_tells_what_it_hides() {
    let indices = Indices::new();
    let store = open(&indices).await;
    let number = create(&store, &user("alice")).await;
    store.password_upgrade(&name("alice"), hash("hash"), hash("stronger")).await.unwrap();
    let source: Value = {
        let url = format!("{}/{}-users/_source/alice", elastic_url(), indices.prefix);
        reqwest::get(url).await.unwrap().json().await.unwrap()
    };
    assert_eq!(source["password"], "stronger");
    assert_eq!(source["prev_seq"], number);
}
