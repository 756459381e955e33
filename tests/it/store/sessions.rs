//! Sessions: what every store promises of them.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use doorward::clock::Time;
use doorward::store::{Store, StoreError};
use doorward::users::Session;
use doorward::users::session::{Lifetimes, Origin};
use futures_util::future::join_all;

use super::contract::{name, user};

pub const LIFETIMES: Lifetimes = Lifetimes { idle: Duration::from_secs(100), whole: Duration::from_secs(1_000) };

pub fn origin() -> Origin {
    Origin { address: IpAddr::V6(Ipv6Addr::LOCALHOST), user_agent: Some("a \"browser\" 🦀".into()) }
}

/// A session of a user that begins so many seconds into 1970.
pub fn session(username: &str, seconds: i64) -> Session {
    Session::begin(&user(username), Some("ein Gerät".into()), origin(), Time::from_ms(seconds * 1000), LIFETIMES)
}

async fn create(store: &dyn Store, session: &Session) {
    store.session_create(session.clone()).await.unwrap();
}

/// A session of alice's, just kept.
pub(super) async fn begun(store: &dyn Store) -> Session {
    let session = session("alice", 0);
    create(store, &session).await;
    session
}

/// The ids of the sessions of a user that were not ended.
async fn open(store: &dyn Store, username: &str) -> Vec<uuid::Uuid> {
    store.sessions_of(&name(username)).await.unwrap().iter().map(|session| session.id).collect()
}

pub(super) async fn a_session_is_given_back_as_it_was_kept(store: &dyn Store) {
    let first = session("alice", 0);
    assert_eq!(store.session_get(first.id).await.unwrap(), None);
    create(store, &first).await;
    assert_eq!(store.session_get(first.id).await.unwrap(), Some(first.clone()));
    let second = first.seen(origin(), Time::from_ms(7));
    store.session_replace(second.clone()).await.unwrap();
    assert_eq!(store.session_get(first.id).await.unwrap(), Some(second));
}

pub(super) async fn a_state_of_a_session_must_follow_the_stored_one(store: &dyn Store) {
    let first = session("alice", 0);
    assert_eq!(store.session_replace(first.end(0)).await, Err(StoreError::NotFound));
    create(store, &first).await;
    store.session_replace(first.end(0)).await.unwrap();
    for wrong in [0, 1, 2, 4] {
        let wrong = Session { rev: wrong, ended: false, ..first.clone() };
        assert_eq!(store.session_replace(wrong).await, Err(StoreError::RevConflict { current_rev: 2 }));
    }
    assert_eq!(store.session_get(first.id).await.unwrap(), Some(first.end(0)));
}

pub(super) async fn s13_of_refreshes_at_once_one_wins(store: &dyn Store) {
    let mut now = session("alice", 0);
    create(store, &now).await;
    for round in 0..10 {
        let rivals: Vec<Session> = (0..8).map(|rival| now.seen(origin(), Time::from_ms(round * 8 + rival))).collect();
        let answers = join_all(rivals.iter().map(|rival| store.session_replace(rival.clone()))).await;
        let winners: Vec<usize> = (0..8).filter(|&at| answers[at].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{answers:?}");
        now = store.session_get(now.id).await.unwrap().unwrap();
        assert_eq!(now, rivals[winners[0]]);
    }
}

pub(super) async fn the_open_sessions_of_a_user_are_listed_oldest_first(store: &dyn Store) {
    let sessions: Vec<Session> = (0..5).map(|at| session("alice", at)).collect();
    for session in &sessions {
        create(store, session).await;
    }
    create(store, &session("bob", 0)).await;
    let ids: Vec<_> = sessions.iter().map(|session| session.id).collect();
    assert_eq!(open(store, "ALICE").await, ids);
    store.session_replace(sessions[2].end(0)).await.unwrap();
    assert_eq!(open(store, "alice").await, [ids[0], ids[1], ids[3], ids[4]]);
    assert!(open(store, "nobody").await.is_empty());
}

pub(super) async fn sessions_that_expired_long_ago_are_cleared_away_for_a_new_one(store: &dyn Store) {
    let (old, ended, bobs) = (session("alice", 0), session("alice", 0), session("bob", 0));
    for session in [&old, &ended, &bobs] {
        create(store, session).await;
    }
    store.session_replace(ended.end(0)).await.unwrap();
    // A listing has both found by now, whatever the store.
    assert_eq!(open(store, "alice").await, [old.id]);
    let soon = session("alice", 200);
    create(store, &soon).await;
    store.sessions_make_room(&soon, 10).await.unwrap();
    assert!(store.session_get(ended.id).await.unwrap().is_some(), "its end may not be known everywhere");
    let late = session("alice", 5 * 86_400);
    create(store, &late).await;
    store.sessions_make_room(&late, 10).await.unwrap();
    for gone in [old, ended] {
        assert_eq!(store.session_get(gone.id).await.unwrap(), None);
    }
    assert!(store.session_get(bobs.id).await.unwrap().is_some());
    assert!(store.session_get(late.id).await.unwrap().is_some());
}

pub(super) async fn sessions_are_too_many_beside_a_new_one_that_would_expire_first(store: &dyn Store) {
    let sessions: Vec<Session> = [30, 10, 50, 20, 40].map(|at| session("alice", at)).to_vec();
    for session in sessions.iter().chain([&session("bob", 0)]) {
        create(store, session).await;
    }
    store.session_replace(sessions[4].end(0)).await.unwrap();
    assert_eq!(open(store, "alice").await.len(), 4);
    let new = session("alice", 45);
    create(store, &new).await;
    let surplus = async |max| {
        let surplus = store.sessions_make_room(&new, max).await.unwrap();
        surplus.iter().map(|session| session.id).collect::<Vec<_>>()
    };
    assert!(surplus(5).await.is_empty());
    assert_eq!(surplus(3).await, [sessions[3].id, sessions[1].id]);
    assert_eq!(surplus(1).await, [sessions[2].id, sessions[0].id, sessions[3].id, sessions[1].id]);
}
