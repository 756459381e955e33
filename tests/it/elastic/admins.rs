//! The last admin, whom two nodes try to bring down at once.

use std::time::Duration;

use doorward::store::elastic::ElasticStore;
use doorward::store::{PasswordChange, Store, StoreError, Written};
use doorward::users::filter::Filter;
use doorward::users::{Role, Status, User};
use serde_json::json;

use super::{Faulty, open};
use crate::store::contract::{create, get, next, user};
use crate::support::proxy::{Fault, When};
use crate::support::{Indices, PASSWORD, PATIENCE, TestGateway, count};

/// Counts the active admins again and again, each time as they are at that moment, until it is dropped.
async fn observe(indices: &Indices) {
    let store = open(indices).await;
    let filter = Filter::parse(&json!({"role": {"eq": "admin"}, "status": {"eq": "active"}})).unwrap();
    for looks in 1_usize.. {
        indices.refresh("users").await;
        let admins = store.user_count(Some(filter.clone())).await.unwrap();
        assert!(admins >= 1, "nobody is an active admin at look {looks}");
    }
}

/// Runs this while somebody watches that there always is an active admin.
async fn observed(indices: &Indices, work: impl Future<Output = ()>) {
    tokio::select! {
        () = observe(indices) => unreachable!("it observes for ever"),
        () = work => {}
    }
}

/// Demotes, deactivates or erases a user, by the number of the round.
async fn bring_down(store: &ElasticStore, username: &str, round: usize) -> Result<Written, StoreError> {
    let username = user(username).username;
    let current = store.user_get(&username).await?.expect("such a user");
    let fallen = next(&current, |user| match round % 3 {
        0 => user.role = Role::User,
        1 => user.status = Status::Deactivated,
        _ => (user.status, user.email) = (Status::Erased, None),
    });
    store.user_replace(fallen, PasswordChange::Keep).await
}

/// Makes a user an active admin again; true when that was needed.
async fn raise(store: &ElasticStore, username: &str) -> bool {
    let current = get(store, username).await;
    let fallen = !current.is_active_admin();
    if fallen {
        let raised = next(&current, |user| (user.role, user.status) = (Role::Admin, Status::Active));
        store.user_replace(raised, PasswordChange::Keep).await.unwrap();
    }
    fallen
}

async fn create_admins(store: &ElasticStore) {
    for username in ["alice", "bob"] {
        create(store, &User { role: Role::Admin, ..user(username) }).await;
    }
}

#[tokio::test]
async fn a05_of_two_admins_whom_two_nodes_bring_down_at_once_one_stays() {
    let indices = Indices::new();
    let (one, two) = (open(&indices).await, open(&indices).await);
    create_admins(&one).await;
    observed(&indices, async {
        for round in 0..count(30, 200) {
            let falls = tokio::join!(bring_down(&one, "alice", round), bring_down(&two, "bob", round / 3));
            let refused = Err(StoreError::LastAdmin);
            assert!(falls.0.is_ok() != falls.1.is_ok(), "round {round}: {falls:?}");
            assert!(falls.0 == refused || falls.1 == refused, "round {round}: {falls:?}");
            assert!(raise(&one, "alice").await != raise(&two, "bob").await, "round {round}");
        }
    })
    .await;
}

#[tokio::test]
async fn a05_falls_that_are_cut_leave_an_admin_and_do_not_keep_others_from_falling() {
    let indices = Indices::new();
    // With so much time that what is not cut is never given up on, to arrive late: the next test is about that.
    let faulty = || Faulty::with_timeout(&indices, Duration::from_secs(4));
    let (one, two) = (faulty().await, faulty().await);
    let clean = open(&indices).await;
    create_admins(&clean).await;
    let (mut cut, mut falls) = (0, 0);
    observed(&indices, async {
        for round in 0..count(15, 200) {
            let fault = |at| if (round + at) % 2 == 0 { Fault::CutBefore } else { Fault::CutAfter };
            let rules =
                [&one, &two].map(|node| [0, 1].map(|at| node.proxy.rule(|_, _| true, When::Chance(0.2), fault(at))));
            let answers =
                tokio::join!(bring_down(&one.store, "alice", round), bring_down(&two.store, "bob", round / 3));
            for answer in [&answers.0, &answers.1] {
                falls += usize::from(answer.is_ok());
                let unavailable = matches!(
                    answer,
                    Ok(_) | Err(StoreError::LastAdmin | StoreError::Unavailable(_) | StoreError::Timeout)
                );
                assert!(unavailable || matches!(answer, Err(StoreError::OutcomeUnknown(_))), "{answers:?}");
            }
            assert!(answers.0.is_err() || answers.1.is_err(), "round {round}: {answers:?}");
            cut += rules.iter().flatten().map(|rule| rule.seen()).sum::<usize>();
            one.proxy.clear();
            two.proxy.clear();
            // Whatever is left of the cut falls, each admin can fall while there is the other.
            for username in ["alice", "bob"] {
                raise(&clean, "alice").await;
                raise(&clean, "bob").await;
                if let Err(error) = bring_down(&clean, username, round).await {
                    let (alice, bob) = (get(&clean, "alice").await, get(&clean, "bob").await);
                    panic!("round {round}, {username}: {error}: {alice:?} {bob:?}");
                }
            }
            raise(&clean, "bob").await;
        }
    })
    .await;
    eprintln!("{cut} requests were cut, {falls} falls succeeded nevertheless");
    assert!(cut > 0 && falls > 0);
}

#[tokio::test]
async fn a05_a_fall_that_arrives_late_is_fenced_off_before_its_user_counts_as_an_admin() {
    let indices = Indices::new();
    let (faulty, clean) = (Faulty::open(&indices).await, open(&indices).await);
    create_admins(&clean).await;
    let write = faulty.proxy.rule(
        |method, path| method == hyper::Method::PUT && path.contains("-users"),
        When::Always,
        Fault::Hold,
    );
    let answer = bring_down(&faulty.store, "alice", 0).await;
    assert!(matches!(answer, Err(StoreError::OutcomeUnknown(_))), "{answer:?}");
    // Alice is on her way down and yet the only other admin.
    bring_down(&clean, "bob", 0).await.unwrap();
    write.release();
    write.wait_for_end().await;
    assert!(get(&clean, "alice").await.is_active_admin(), "the held fall came true");
    assert_eq!(bring_down(&clean, "alice", 0).await, Err(StoreError::LastAdmin));
}

#[tokio::test]
async fn a05_two_gateways_never_demote_each_others_last_admin() {
    let indices = Indices::new();
    let (one, two) = (TestGateway::over(indices.config()).await, TestGateway::over(indices.config()).await);
    one.admin("alice").await;
    two.admin("bob").await;
    let (mut alice, mut bob) = (token_at(2, &one, "alice").await, token_at(2, &two, "bob").await);
    observed(&indices, async {
        for round in 0..count(5, 50) {
            let demote = |username| json!({"username": username, "role": "user"});
            let answers = tokio::join!(
                one.call(Some(&alice), "users.set_role", demote("bob")),
                two.call(Some(&bob), "users.set_role", demote("alice")),
            );
            assert!(answers.0.is_ok() != answers.1.is_ok(), "{round}: {answers:?}");
            let alice_stays = answers.0.is_ok();
            // Who has lost the role already may not even try.
            let code = answers.0.and(answers.1).unwrap_err().code;
            assert!([1004, 1101, 1102].contains(&code), "round {round}: {code}");
            let promote = |username| json!({"username": username, "role": "admin"});
            if alice_stays {
                let promoted = one.call(Some(&alice), "users.set_role", promote("bob")).await.unwrap();
                bob = token_at(promoted["user"]["rev"].as_u64().unwrap(), &two, "bob").await;
            } else {
                let promoted = two.call(Some(&bob), "users.set_role", promote("alice")).await.unwrap();
                alice = token_at(promoted["user"]["rev"].as_u64().unwrap(), &one, "alice").await;
            }
        }
    })
    .await;
}

/// A token of a user at a revision, once the gateway has learnt of it.
async fn token_at(rev: u64, gateway: &TestGateway, username: &str) -> String {
    let learnt = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        loop {
            // Refused when it learns of it during the login.
            let params = json!({"login": username, "password": PASSWORD});
            if let Ok(signed_in) = gateway.call(None, "auth.login", params).await
                && signed_in["user"]["rev"] == rev
            {
                return signed_in["tokens"]["access_token"].as_str().unwrap().to_owned();
            }
            ticks.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, learnt).await.expect("the gateway learns of it in time")
}
