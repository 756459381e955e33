//! Writes, lookups and the sequence of changes: what every store promises.

use doorward::clock::Time;
use doorward::store::{PasswordChange, PasswordHash, Position, Record, Store, StoreError, Unique};
use doorward::users::{Attributes, Change, ChangeKind, Email, Role, Status, User, Username};
use futures_util::future::join_all;

pub fn name(text: &str) -> Username {
    Username::parse(text).unwrap()
}

pub fn hash(text: &str) -> PasswordHash {
    PasswordHash::new(text.to_owned())
}

/// A new user of this name.
pub fn user(username: &str) -> User {
    let at = Time::parse("2026-01-01T00:00:00.250Z").unwrap();
    User {
        username: name(username),
        email: Some(Email::parse(&format!("{username}@example.com")).unwrap()),
        display_name: username.to_owned(),
        bio: String::new(),
        avatar_url: None,
        attributes: Attributes::default(),
        status: Status::Active,
        role: Role::User,
        created_at: at,
        updated_at: at,
        rev: 1,
        last_change: Change { kind: ChangeKind::Created, fields: vec![], actor: None, at, reason: None },
        generation: 1,
        encoded: doorward::users::Encoded::default(),
    }
}

/// The state after `user`, changed.
pub fn next(user: &User, change: impl FnOnce(&mut User)) -> User {
    let mut user = User { rev: user.rev + 1, ..user.clone() };
    change(&mut user);
    user
}

pub async fn create(store: &dyn Store, user: &User) -> u64 {
    store.user_create(user.clone(), hash("hash")).await.unwrap().seq.unwrap()
}

async fn replace(store: &dyn Store, user: &User) -> Result<u64, StoreError> {
    store.user_replace(user.clone(), PasswordChange::Keep).await.map(|written| written.seq.unwrap())
}

/// The newest state of every user, in the order in which they were written.
pub(super) async fn all_changes(store: &dyn Store) -> Vec<Record> {
    let (mut records, mut position) = (Vec::new(), store.start().await.unwrap());
    loop {
        let changes = store.changes_after(&position, 1_000).await.unwrap();
        records.extend(changes.records);
        position = changes.position;
        if !changes.more {
            return records;
        }
    }
}

pub async fn get(store: &dyn Store, username: &str) -> User {
    (*store.user_get(&name(username)).await.unwrap().expect("such a user")).clone()
}

pub(super) async fn a_user_is_given_back_as_it_was_created(store: &dyn Store) {
    let attributes = serde_json::json!({"a": [1, 2.5, null, "ü"], "b": {"c": true}}).to_string();
    let alice = User {
        display_name: "Ålice \"the\" O'Hara 🦀".into(),
        bio: "one\ntwo".into(),
        avatar_url: Some("https://example.com/a.png".into()),
        attributes: Attributes::parse(serde_json::from_str(&attributes).unwrap()).unwrap(),
        status: Status::Deactivated,
        role: Role::Admin,
        updated_at: Time::parse("2026-03-01T00:00:00Z").unwrap(),
        last_change: Change {
            kind: ChangeKind::RoleChanged,
            fields: vec!["role".into()],
            actor: Some(name("bob")),
            at: Time::parse("2026-03-01T00:00:00Z").unwrap(),
            reason: Some("because".into()),
        },
        generation: 7,
        encoded: doorward::users::Encoded::default(),
        ..user("Alice")
    };
    create(store, &alice).await;
    let found = get(store, "Alice").await;
    assert_eq!(found, alice);
    assert_eq!(found.username.as_str(), "Alice");
    assert_eq!(store.user_get(&name("bob")).await.unwrap(), None);
}

pub(super) async fn a_name_is_found_and_taken_in_any_case(store: &dyn Store) {
    create(store, &user("Alice")).await;
    create(store, &user("bob")).await;
    assert_eq!(get(store, "aLICE").await.username.as_str(), "Alice");
    let other = User { email: None, ..user("ALICE") };
    assert_eq!(store.user_create(other, hash("x")).await, Err(StoreError::AlreadyExists(Unique::Username)));
    let names = [name("ALICE"), name("alice"), name("nobody"), name("Bob")];
    let mut found: Vec<String> =
        store.user_get_many(&names).await.unwrap().iter().map(|user| user.username.to_string()).collect();
    found.sort();
    assert_eq!(found, ["Alice", "bob"]);
}

pub(super) async fn an_address_is_found_and_taken_in_any_case(store: &dyn Store) {
    create(store, &user("alice")).await;
    let spelled = Email::parse("ALICE@Example.COM").unwrap();
    assert_eq!(store.user_get_by_email(&spelled).await.unwrap().unwrap().username, name("alice"));
    assert_eq!(store.user_get_by_email(&Email::parse("bob@example.com").unwrap()).await.unwrap(), None);

    let thief = User { email: Some(spelled.clone()), ..user("bob") };
    assert_eq!(store.user_create(thief, hash("x")).await, Err(StoreError::AlreadyExists(Unique::Email)));
    let bob = user("bob");
    create(store, &bob).await;
    let thief = next(&bob, |bob| bob.email = Some(spelled.clone()));
    assert_eq!(replace(store, &thief).await, Err(StoreError::AlreadyExists(Unique::Email)));
    // Another spelling of one's own address is no conflict.
    replace(store, &next(&user("alice"), |alice| alice.email = Some(spelled))).await.unwrap();
}

pub(super) async fn an_address_is_free_again_when_its_holder_has_changed_it(store: &dyn Store) {
    let alice = user("alice");
    create(store, &alice).await;
    replace(store, &next(&alice, |alice| alice.email = Some(Email::parse("new@example.com").unwrap()))).await.unwrap();
    create(store, &User { email: alice.email, ..user("bob") }).await;
    let old = Email::parse("alice@example.com").unwrap();
    assert_eq!(store.user_get_by_email(&old).await.unwrap().unwrap().username, name("bob"));
}

pub(super) async fn a_replacement_must_follow_the_stored_revision(store: &dyn Store) {
    let alice = user("alice");
    assert_eq!(replace(store, &next(&alice, |_| {})).await, Err(StoreError::NotFound));
    create(store, &alice).await;
    let second = next(&alice, |alice| alice.bio = "second".into());
    replace(store, &second).await.unwrap();
    for wrong in [0, 1, 2, 4, 9] {
        let wrong = User { rev: wrong, bio: "wrong".into(), ..alice.clone() };
        assert_eq!(replace(store, &wrong).await, Err(StoreError::RevConflict { current_rev: 2 }));
    }
    assert_eq!(get(store, "alice").await, second);
}

pub(super) async fn of_concurrent_replacements_one_wins(store: &dyn Store) {
    let mut alice = user("alice");
    create(store, &alice).await;
    for round in 0..20 {
        let rivals: Vec<User> =
            (0..10).map(|rival| next(&alice, |alice| alice.bio = format!("{round} {rival}"))).collect();
        let answers = join_all(rivals.iter().map(|rival| replace(store, rival))).await;
        let winners: Vec<usize> = (0..10).filter(|&at| answers[at].is_ok()).collect();
        assert_eq!(winners.len(), 1);
        let conflict = Err(StoreError::RevConflict { current_rev: alice.rev + 1 });
        assert_eq!(answers.iter().filter(|&answer| *answer == conflict).count(), 9);
        alice = get(store, "alice").await;
        assert_eq!(alice, rivals[winners[0]]);
    }
}

pub(super) async fn an_erased_user_keeps_the_name(store: &dyn Store) {
    let alice = user("alice");
    create(store, &alice).await;
    let erased = next(&alice, |alice| {
        alice.status = Status::Erased;
        alice.email = None;
    });
    store.user_replace(erased.clone(), PasswordChange::Remove).await.unwrap();
    assert_eq!(get(store, "alice").await, erased);
    // What it replaced is personal, too.
    assert_eq!(all_changes(store).await[0].before, None);
    assert_eq!(store.user_create(alice, hash("x")).await, Err(StoreError::AlreadyExists(Unique::Username)));
    create(store, &User { email: Some(Email::parse("alice@example.com").unwrap()), ..user("bob") }).await;
}

pub(super) async fn a05_the_last_active_admin_stays_whatever_is_tried_at_once(store: &dyn Store) {
    let admin = |username| User { role: Role::Admin, ..user(username) };
    for username in ["alice", "bob", "carol"] {
        create(store, &admin(username)).await;
    }
    for round in 0..crate::support::count(10, 200) {
        // Each is demoted, deactivated or erased at once with the others.
        let falls = join_all(["alice", "bob", "carol"].into_iter().enumerate().map(async |(at, username)| {
            let current = get(store, username).await;
            let fallen = next(&current, |user| match (round + at) % 3 {
                0 => user.role = Role::User,
                1 => user.status = Status::Deactivated,
                _ => (user.status, user.email) = (Status::Erased, None),
            });
            replace(store, &fallen).await
        }))
        .await;
        assert_eq!(falls.iter().filter(|fall| fall.is_ok()).count(), 2, "round {round}: {falls:?}");
        assert_eq!(falls.iter().filter(|fall| **fall == Err(StoreError::LastAdmin)).count(), 1);
        for username in ["alice", "bob", "carol"] {
            let raised = next(&get(store, username).await, |user| {
                (user.role, user.status) = (Role::Admin, Status::Active);
            });
            replace(store, &raised).await.unwrap();
        }
    }
}

pub(super) async fn a04_text_that_looks_like_a_query_is_only_text(store: &dyn Store) {
    for (at, text) in [
        "'; DROP TABLE users; --",
        "\" OR 1=1 --",
        "%",
        "_",
        "*",
        "NEAR(a b)",
        "{\"$ne\":null}",
        "\\",
        "../..",
        "a\u{0}b",
    ]
    .into_iter()
    .enumerate()
    {
        let strange = User { display_name: text.into(), bio: text.into(), ..user(&format!("user{at}")) };
        create(store, &strange).await;
        assert_eq!(get(store, &format!("user{at}")).await, strange);
        let filter = serde_json::json!({"display_name": {"eq": text}});
        let filter = doorward::users::filter::Filter::parse(&filter).unwrap();
        assert_eq!(store.user_count(Some(filter)).await.unwrap(), 1, "{text}");
    }
}

pub(super) async fn every_write_has_a_number_and_the_state_it_replaced(store: &dyn Store) {
    let alice = user("alice");
    let first = create(store, &alice).await;
    let renamed = next(&alice, |alice| {
        alice.display_name = "Alice".into();
        alice.role = Role::Admin;
    });
    create(store, &user("bob")).await;
    let second = replace(store, &renamed).await.unwrap();
    assert!(second > first);

    let records = all_changes(store).await;
    let [bob, last] = records.as_slice() else { panic!("two users, not {}", records.len()) };
    assert_eq!((bob.prev_seq, bob.before.as_ref()), (None, None));
    assert_eq!((last.seq, last.prev_seq), (second, Some(first)));
    assert_eq!(*last.user, renamed);
    let before = last.before.as_ref().unwrap();
    assert_eq!(before.email.as_deref(), Some("alice@example.com"));
    assert_eq!((before.display_name.as_str(), before.rev), ("alice", 1));
    assert_eq!((before.status, before.role, before.updated_at), (alice.status, alice.role, alice.updated_at));
}

pub(super) async fn changes_are_given_once_in_order_and_newest_only(store: &dyn Store) {
    let users: Vec<User> = (0..50).map(|at| user(&format!("user{at}"))).collect();
    join_all(users.iter().map(|user| create(store, user))).await;
    for user in users.iter().step_by(5) {
        replace(store, &next(user, |user| user.bio = "new".into())).await.unwrap();
    }
    let (mut seen, mut position) = (Vec::new(), store.start().await.unwrap());
    loop {
        let changes = store.changes_after(&position, 7).await.unwrap();
        let records = changes.records;
        assert!(records.len() <= 7 && records.is_sorted_by_key(|record| record.seq));
        assert!(records.iter().all(|record| record.seq > position.numbers[record.shard]));
        assert!(records.iter().all(|record| record.seq <= changes.position.numbers[record.shard]));
        position = changes.position;
        seen.extend(records.into_iter().map(|record| record.user.username.key()));
        if !changes.more {
            break;
        }
    }
    assert_eq!(position, store.position().await.unwrap());
    assert_eq!(seen.len(), 50);
    let replaced: Vec<String> = users.iter().step_by(5).map(|user| user.username.key()).collect();
    assert_eq!(seen[40..], replaced);
}

pub(super) async fn a_position_of_another_store_or_of_the_future_is_refused(store: &dyn Store) {
    create(store, &user("alice")).await;
    let now = store.position().await.unwrap();
    assert!(store.changes_after(&now, 7).await.unwrap().records.is_empty());
    let strange = [
        Position { history: "another".into(), ..now.clone() },
        Position { numbers: now.numbers.iter().map(|number| number + 1).collect(), ..now.clone() },
        Position { numbers: now.numbers.iter().map(|_| u64::MAX).collect(), ..now.clone() },
        Position { numbers: vec![], ..now.clone() },
        Position { numbers: vec![0; 99], ..now.clone() },
        Position { former: Some(Box::new(Position { history: "another".into(), ..now.clone() })), ..now.clone() },
    ];
    for position in strange {
        assert_eq!(store.changes_after(&position, 7).await.unwrap_err(), StoreError::BadPosition, "{position:?}");
    }
}

pub(super) async fn a_position_includes_every_write_that_returned(store: &dyn Store) {
    let start = store.position().await.unwrap();
    let first = create(store, &user("alice")).await;
    let later = store.position().await.unwrap();
    assert_eq!(start.history, later.history);
    assert!(later.numbers.iter().any(|&number| number >= first));
    // A refused write has no number.
    assert!(store.user_create(user("alice"), hash("x")).await.is_err());
    assert_eq!(store.position().await.unwrap(), later);
}

pub(super) async fn a_password_is_set_kept_and_removed(store: &dyn Store) {
    let alice = user("alice");
    assert_eq!(store.password_get(&alice.username).await.unwrap(), None);
    store.user_create(alice.clone(), hash("one")).await.unwrap();
    let stored = async || store.password_get(&name("ALICE")).await.unwrap();
    assert_eq!(stored().await, Some(hash("one")));
    let second = next(&alice, |_| {});
    replace(store, &second).await.unwrap();
    assert_eq!(stored().await, Some(hash("one")));
    let third = next(&second, |_| {});
    store.user_replace(third.clone(), PasswordChange::Set(hash("two"))).await.unwrap();
    assert_eq!(stored().await, Some(hash("two")));
    store.user_replace(next(&third, |_| {}), PasswordChange::Remove).await.unwrap();
    assert_eq!(stored().await, None);
}

pub(super) async fn a_hash_is_upgraded_only_while_it_is_still_stored(store: &dyn Store) {
    let alice = user("alice");
    store.user_create(alice.clone(), hash("weak")).await.unwrap();
    let position = store.position().await.unwrap();
    store.password_upgrade(&alice.username, hash("weak"), hash("strong")).await.unwrap();
    assert_eq!(store.password_get(&alice.username).await.unwrap(), Some(hash("strong")));
    store.password_upgrade(&alice.username, hash("weak"), hash("other")).await.unwrap();
    assert_eq!(store.password_get(&alice.username).await.unwrap(), Some(hash("strong")));
    store.password_upgrade(&name("nobody"), hash("weak"), hash("other")).await.unwrap();
    // It is no change of the user.
    assert_eq!(get(store, "alice").await, alice);
    // It may be a write with a number, but is no change: the revision is known.
    let changes = store.changes_after(&position, 10).await.unwrap();
    assert!(changes.records.iter().all(|record| *record.user == alice));
}

pub(super) async fn the_store_can_be_checked(store: &dyn Store) {
    assert_eq!(store.check().await, []);
}
