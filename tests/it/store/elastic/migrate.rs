//! `doorward migrate`, while gateways serve and when it is interrupted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use doorward::store::elastic::{ElasticConfig, ElasticStore, Migration, OpenError, migrate};
use doorward::store::{PasswordChange, Position, Store, StoreError};
use doorward::users::User;
use futures_util::future::join_all;
use serde_json::json;
use tokio::sync::Notify;

use super::super::contract::{create, hash, name, next, user};
use crate::support::elastic::elastic_url;
use crate::support::{Indices, count, long_run};

/// What was acknowledged last of each user.
type Known = BTreeMap<String, User>;

async fn move_to(config: &ElasticConfig, shards: usize) -> Vec<Migration> {
    let config = ElasticConfig { shards, ..config.clone() };
    migrate(&config, &[], &|_| {}).await.unwrap()
}

/// Whoever has changed behind a position, read in small pages, and the position then.
async fn changed_since(store: &dyn Store, position: &Position) -> (Known, Position) {
    let (mut changed, mut position) = (Known::new(), position.clone());
    loop {
        let changes = store.changes_after(&position, 17).await.unwrap();
        position = changes.position;
        for record in changes.records {
            let user = User::clone(&record.user);
            let known = changed.insert(user.username.key(), user);
            assert_eq!(known, None, "a user comes once, as of now");
        }
        if !changes.more {
            return (changed, position);
        }
    }
}

/// Creates and changes users, one write after the other, until told to stop.
async fn keep_writing(store: &dyn Store, at: usize, stop: &AtomicBool) -> (Known, usize) {
    let (mut known, mut held) = (Known::new(), 0);
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let username = format!("writer{at}-{}", round % 20);
        let written = match known.get(&username) {
            None => {
                let user = user(&username);
                store.user_create(user.clone(), hash("x")).await.map(|_| user)
            }
            Some(user) => {
                let user = next(user, |user| user.bio = format!("round {round}"));
                store.user_replace(user.clone(), PasswordChange::Keep).await.map(|_| user)
            }
        };
        match written {
            Ok(user) => drop(known.insert(username, user)),
            // Refused after waiting for the migration: told so, and not done.
            Err(StoreError::Unavailable(_)) => held += 1,
            Err(error) => panic!("{username}: {error}"),
        }
    }
    (known, held)
}

#[tokio::test(flavor = "multi_thread")]
async fn r14_users_move_to_other_shards_while_they_are_written_and_nothing_is_lost() {
    let indices = Indices::new();
    let config = indices.config();
    let (one, two) = (ElasticStore::open(&config).await.unwrap(), ElasticStore::open(&config).await.unwrap());
    join_all((0..60).map(|at| async move { user(&format!("old{at}")) }).map(async |user| {
        create(&one, &user.await).await;
    }))
    .await;
    let before = one.position().await.unwrap();
    let fresh: Vec<User> = (0..60).map(|at| user(&format!("fresh{at}"))).collect();
    join_all(fresh.iter().map(|user| create(&two, user))).await;

    let stop = AtomicBool::new(false);
    let stores: [&dyn Store; 2] = [&one, &two];
    let writers = join_all((0..6).map(|at| keep_writing(stores[at % 2], at, &stop)));
    let migrations = async {
        // Two at once, there and on to yet another index.
        let first = tokio::join!(move_to(&config, 3), move_to(&config, 3)).0;
        let second = move_to(&config, 2).await;
        stop.store(true, Ordering::Relaxed);
        (first, second)
    };
    let (writes, (first, second)) = tokio::join!(writers, migrations);
    for migration in first.iter().chain(&second) {
        eprintln!("{migration}");
    }
    assert!(matches!(&first[3], Migration::Moved { .. }) && matches!(&first[0], Migration::UpToDate { .. }));
    // On a machine that does other work besides, the migration may take longer than a write waits.
    let held = writes.iter().map(|(_, held)| held).sum::<usize>();
    eprintln!("{held} writes were refused after they had waited");
    assert!(held == 0 || !long_run(), "writes wait for the migration");

    let mut known: Known = fresh.into_iter().map(|user| (user.username.key(), user)).collect();
    known.extend(writes.into_iter().flat_map(|(known, _)| known));
    eprintln!("{} users, {} writes", known.len(), known.values().map(|user| user.rev).sum::<u64>());
    let three = ElasticStore::open(&config).await.unwrap();
    for store in [&one, &two, &three] {
        // Exactly those: nobody who has not changed since, although all were copied twice.
        let (changed, now) = changed_since(store, &before).await;
        assert_eq!(changed, known);
        assert_eq!(now, store.position().await.unwrap());
        assert_eq!((now.numbers.len(), now.former), (2, None));
        assert_eq!(store.user_count(None).await.unwrap(), known.len() as u64 + 60);
    }
    for user in known.values() {
        assert_eq!(*three.user_get(&user.username).await.unwrap().unwrap(), *user);
        assert_eq!(three.user_get_by_email(user.email.as_ref().unwrap()).await.unwrap().unwrap().rev, user.rev);
    }
    let (again, _) = changed_since(&three, &three.position().await.unwrap()).await;
    assert!(again.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn r14_a_slower_migration_of_two_agrees_though_the_copy_is_written_to_already() {
    let indices = Indices::new();
    let config = indices.config();
    let store = ElasticStore::open(&config).await.unwrap();
    create(&store, &user("alice")).await;
    let target = ElasticConfig { shards: 2, ..config.clone() };
    let copied = Arc::new(Notify::new());
    let (overtaken, is_overtaken) = std::sync::mpsc::channel::<()>();
    let slower = tokio::spawn({
        let (target, copied, is_overtaken) = (target.clone(), copied.clone(), Mutex::new(is_overtaken));
        // Stands still at its first line of progress until the other is done.
        let progress = move |_| {
            copied.notify_one();
            tokio::task::block_in_place(|| is_overtaken.lock().unwrap().recv().unwrap_err());
        };
        async move { migrate(&target, &[], &progress).await }
    });
    copied.notified().await;
    move_to(&target, 2).await;
    create(&store, &user("bob")).await;
    drop(overtaken);
    let slower = slower.await.unwrap();
    assert!(matches!(&slower.unwrap()[3], Migration::Moved { .. }));
    assert_eq!(store.user_count(None).await.unwrap(), 2);
}

#[tokio::test]
async fn r14_a_migration_that_ends_half_way_is_finished_by_the_next() {
    let indices = Indices::new();
    let config = indices.config();
    let store = ElasticStore::open(&config).await.unwrap();
    let users: Vec<User> = (0..40).map(|at| user(&format!("user{at}"))).collect();
    join_all(users.iter().map(|user| create(&store, user))).await;
    let mut shards = 1;
    for round in 0..count(4, 40) {
        shards = 3 - shards;
        let (steps, stopped) = (AtomicUsize::new(0), Notify::new());
        // Ended after so many lines of progress, or after that and a moment more.
        let progress = |_| {
            if steps.fetch_add(1, Ordering::Relaxed) == round % 3 {
                stopped.notify_one();
            }
        };
        let target = ElasticConfig { shards, ..config.clone() };
        tokio::select! {
            done = migrate(&target, &[], &progress) => drop(done.unwrap()),
            () = async {
                stopped.notified().await;
                tokio::time::sleep(std::time::Duration::from_millis(rand::random_range(0..300))).await;
            } => {}
        }
        migrate(&target, &[], &|_| {}).await.unwrap();
        let changed = next(&store.user_get(&name("user7")).await.unwrap().unwrap(), |user| user.bio.push('x'));
        store.user_replace(changed, PasswordChange::Keep).await.unwrap();
        assert_eq!(store.position().await.unwrap().numbers.len(), shards);
        assert_eq!(store.user_count(None).await.unwrap(), 40);
    }
}

#[tokio::test]
async fn r14_gateways_that_start_at_once_make_one_set_of_indices() {
    let indices = Indices::new();
    let config = indices.config();
    // Each uses it as soon as it can, which for those who made nothing is before the others' shards are there.
    let histories = join_all((0..4).map(|_| async {
        let store = ElasticStore::open(&config).await.unwrap();
        store.position().await.unwrap()
    }));
    let histories = histories.await;
    assert!(histories.iter().all(|position| *position == histories[0]));
}

#[tokio::test]
async fn r14_a_newer_schema_is_refused_and_an_older_one_is_migrated_by_command() {
    let indices = Indices::new();
    let config = indices.config();
    let store = ElasticStore::open(&config).await.unwrap();
    create(&store, &user("alice")).await;

    set_schema(&indices, 99).await;
    let refusal = ElasticStore::open(&config).await.err().unwrap();
    assert!(matches!(refusal, OpenError::NewerSchema { found: 99 }), "{refusal}");
    let refusal = migrate(&config, &[], &|_| {}).await.unwrap_err();
    assert!(matches!(refusal, OpenError::NewerSchema { found: 99 }), "{refusal}");

    set_schema(&indices, 0).await;
    let refusal = ElasticStore::open(&config).await.err().unwrap();
    assert!(matches!(refusal, OpenError::OlderSchema { found: 0 }), "{refusal}");
    assert!(refusal.to_string().contains("doorward migrate"), "{refusal}");
    migrate(&config, &[], &|_| {}).await.unwrap();
    let store = ElasticStore::open(&config).await.unwrap();
    assert!(store.user_get(&name("alice")).await.unwrap().is_some());
}

#[tokio::test]
async fn r14_users_of_an_earlier_schema_are_folded_anew_by_migrate() {
    let indices = Indices::new();
    let config = indices.config();
    let store = ElasticStore::open(&config).await.unwrap();
    for (username, display_name) in [("papa", "パパ"), ("haha", "ハハ"), ("lim", "李明华")] {
        create(&store, &User { display_name: display_name.into(), ..user(username) }).await;
    }
    // As schema 1 has them: without marks, and the words alone.
    set_schema(&indices, 1).await;
    let users = format!("{}/{}-users", elastic_url(), indices.prefix);
    let words = json!({"properties": {"words": {"type": "text", "analyzer": "whitespace"}}});
    let client = reqwest::Client::new();
    client.put(format!("{users}/_mapping")).json(&words).send().await.unwrap().error_for_status().unwrap();
    indices.refresh("users").await;
    let found = client.get(format!("{users}/_search")).send().await.unwrap().json::<serde_json::Value>().await.unwrap();
    let hits = found["hits"]["hits"].as_array().unwrap();
    assert_eq!(hits.len(), 3);
    for hit in hits {
        let mut source = hit["_source"].clone();
        source.as_object_mut().unwrap().remove("terms");
        (source["words"], source["display_fold"]) = (source["username"].clone(), json!("ハハ"));
        let put = client.put(format!("{users}/_doc/{}", hit["_id"].as_str().unwrap())).json(&source);
        put.send().await.unwrap().error_for_status().unwrap();
    }

    migrate(&config, &[], &|_| {}).await.unwrap();
    let store = ElasticStore::open(&config).await.unwrap();
    super::super::searches::texts_are_folded_by_this_version(&store).await;
}

/// Makes the users index say that it is of this schema.
async fn set_schema(indices: &Indices, schema: u32) {
    let url = format!("{}/{}-users/_mapping", elastic_url(), indices.prefix);
    let body = json!({"_meta": {"doorward": {"kind": "users", "schema": schema, "formers": []}}});
    let answer = reqwest::Client::new().put(url).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), 200);
}
