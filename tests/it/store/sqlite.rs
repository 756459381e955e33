//! The embedded store: the contract, and what its file must survive.

use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use doorward::store::sqlite::{OpenError, SqliteOptions, SqliteStore};
use doorward::store::{PasswordChange, Store, StoreError};
use doorward::users::{Attributes, Email, Status, User};
use futures_util::future::join_all;

use super::contract::{all_changes, create, hash, name, next, user};
use super::test_contract;

/// A store in a folder that goes with it.
struct Home {
    store: Option<SqliteStore>,
    folder: tempfile::TempDir,
}

impl Deref for Home {
    type Target = dyn Store;

    fn deref(&self) -> &Self::Target {
        self.store.as_ref().unwrap()
    }
}

impl Home {
    fn path(&self) -> PathBuf {
        self.folder.path().join("doorward.db")
    }

    async fn reopen(&mut self) {
        if let Some(store) = self.store.take() {
            store.close().await;
        }
        self.store = Some(SqliteStore::open(&self.path()).unwrap());
    }

    /// What is in the file, by a connection that is not the store's.
    fn sql(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.path()).unwrap()
    }

    fn check_integrity(&self) {
        let answer: String = self.sql().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(answer, "ok");
        self.sql().execute("INSERT INTO users_fts (users_fts) VALUES ('integrity-check')", []).unwrap();
    }
}

async fn open() -> Home {
    open_with(SqliteOptions::default())
}

fn open_with(options: SqliteOptions) -> Home {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open_with(&folder.path().join("doorward.db"), options).unwrap();
    Home { store: Some(store), folder }
}

test_contract!(open);

#[tokio::test]
async fn a_reopened_store_has_everything_and_the_same_history() {
    let mut home = open().await;
    let alice = User { display_name: "Alice Liddell".into(), ..user("alice") };
    let seq = create(&*home, &alice).await;
    let position = home.position().await.unwrap();
    home.reopen().await;
    assert_eq!(home.position().await.unwrap(), position);
    assert_eq!(*home.user_get(&name("alice")).await.unwrap().unwrap(), alice);
    assert!(create(&*home, &user("bob")).await > seq);
    let query =
        doorward::store::SearchQuery { words: vec!["lidell".into()], fuzzy: true, filter: None, after: None, limit: 5 };
    assert_eq!(home.user_search(query).await.unwrap().count, 1);
    home.check_integrity();
}

#[tokio::test]
async fn two_stores_have_two_histories() {
    let (one, other) = (open().await, open().await);
    assert_ne!(one.position().await.unwrap().history, other.position().await.unwrap().history);
}

#[tokio::test]
async fn the_files_are_for_their_owner_only() {
    let home = open().await;
    create(&*home, &user("alice")).await;
    for file in std::fs::read_dir(home.folder.path()).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.file_name());
    }
}

#[tokio::test]
async fn r14_a_newer_schema_is_refused() {
    let mut home = open().await;
    home.store.take().unwrap().close().await;
    home.sql().pragma_update(None, "user_version", 99).unwrap();
    let refusal = SqliteStore::open(&home.path()).err().unwrap();
    assert!(matches!(refusal, OpenError::NewerSchema { found: 99, .. }), "{refusal}");
}

#[tokio::test]
async fn r14_a_database_of_version_0_1_0_is_folded_anew_when_it_is_opened() {
    let mut home = open().await;
    home.store.take().unwrap().close().await;
    std::fs::write(home.path(), include_bytes!("../../data/doorward-0.1.0.db")).unwrap();
    let eq = |name: &str| format!("SELECT count(*) FROM users WHERE display_fold = '{name}'");
    let alike: i64 = home.sql().query_row(&eq("ハハ"), [], |row| row.get(0)).unwrap();
    assert_eq!(alike, 2, "the fixture has what was wrong");
    home.reopen().await;
    super::searches::texts_are_folded_by_this_version(&*home).await;
    let papa = home.user_get(&name("papa")).await.unwrap().unwrap();
    let renamed = next(&papa, |papa| papa.display_name = "Papa".into());
    home.user_replace(renamed, PasswordChange::Keep).await.unwrap();
    home.check_integrity();
}

#[tokio::test]
async fn r14_stores_that_open_one_new_file_at_once_agree() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("doorward.db");
    let open = || SqliteStore::open(&path).map_err(|error| error.to_string()).unwrap();
    let stores: Vec<SqliteStore> = std::thread::scope(|scope| {
        (0..4).map(|_| scope.spawn(open)).collect::<Vec<_>>().into_iter().map(|t| t.join().unwrap()).collect()
    });
    let histories = join_all(stores.iter().map(async |store| store.position().await.unwrap())).await;
    assert!(histories.iter().all(|position| *position == histories[0]));
}

#[tokio::test]
async fn what_is_not_ours_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    assert!(matches!(SqliteStore::open(&path), Err(OpenError::Foreign)));
    let text = folder.path().join("notes.txt");
    std::fs::write(&text, "not a database, but longer than the header of one: ".repeat(50)).unwrap();
    assert!(matches!(SqliteStore::open(&text), Err(OpenError::Sqlite(_))));
    assert!(std::fs::read_to_string(&text).unwrap().starts_with("not a database"));
    assert!(SqliteStore::open(&folder.path().join("no/such/folder.db")).is_err());
}

#[tokio::test]
async fn r02_on_a_full_disk_writes_fail_reads_go_on_and_room_is_enough_to_recover() {
    let home = open_with(SqliteOptions { max_pages: Some(200), ..SqliteOptions::default() });
    let big = |username: &str| {
        let members = serde_json::json!({"blob": "x".repeat(4000)}).to_string();
        User { attributes: Attributes::parse(serde_json::from_str(&members).unwrap()).unwrap(), ..user(username) }
    };
    let mut kept = Vec::new();
    let refusal = loop {
        let user = big(&format!("user{}", kept.len()));
        match home.user_create(user.clone(), hash("x")).await {
            Ok(_) => kept.push(user),
            Err(refusal) => break refusal,
        }
    };
    assert!(matches!(refusal, StoreError::Unavailable(_)), "{refusal}");
    assert!(kept.len() > 10);

    // Many at once are refused alike, and nothing of them is left.
    let refused = join_all((0..20).map(|at| home.user_create(big(&format!("late{at}")), hash("x")))).await;
    assert!(refused.iter().all(|answer| matches!(answer, Err(StoreError::Unavailable(_)))), "{refused:?}");
    assert_eq!(home.user_count(None).await.unwrap(), kept.len() as u64);
    for user in &kept {
        assert_eq!(*home.user_get(&user.username).await.unwrap().unwrap(), *user);
    }

    for user in &kept[..10] {
        let smaller = next(user, |user| user.attributes = Attributes::default());
        home.user_replace(smaller, PasswordChange::Keep).await.unwrap();
    }
    create(&*home, &big("bob")).await;
    assert_eq!(home.check().await, []);
    home.check_integrity();
}

#[tokio::test]
async fn a_refused_write_takes_none_of_its_group_with_it() {
    let home = open().await;
    create(&*home, &user("alice")).await;
    // Queued together, they share commits; every second one is refused.
    let answers = join_all((0..100).map(|at| {
        let username = if at % 2 == 0 { format!("user{at}") } else { "ALICE".to_owned() };
        home.user_create(User { email: None, ..user(&username) }, hash("x"))
    }))
    .await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 50);
    let mut numbers: Vec<u64> = answers.into_iter().flatten().map(|written| written.seq.unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (2..=51).collect::<Vec<u64>>());
    home.check_integrity();
}

#[tokio::test]
async fn a_write_of_another_process_is_noticed() {
    let home = open().await;
    let other = SqliteStore::open(&home.path()).unwrap();
    create(&other, &user("alice")).await;
    tokio::time::timeout(std::time::Duration::from_secs(5), home.changed_elsewhere()).await.unwrap();
    assert_eq!(all_changes(&*home).await.len(), 1);
    let query =
        doorward::store::SearchQuery { words: vec!["alcie".into()], fuzzy: true, filter: None, after: None, limit: 5 };
    assert_eq!(home.user_search(query).await.unwrap().count, 1);
}

#[tokio::test]
async fn nothing_of_an_erased_user_but_the_name_is_left_in_the_file() {
    let mut home = open().await;
    let others: Vec<User> = (0..200).map(|at| user(&format!("user{at}"))).collect();
    let alice = User {
        display_name: "Qwertzuiop Asdfghjkl".into(),
        bio: "Zyxwvuts".into(),
        email: Some(Email::parse("Mnbvcxy@example.com").unwrap()),
        ..user("alice")
    };
    join_all(others.iter().chain([&alice]).map(|user| create(&*home, user))).await;
    let erased = next(&alice, |alice| {
        (alice.display_name, alice.bio, alice.email) = ("alice".into(), String::new(), None);
        alice.status = Status::Erased;
    });
    home.user_replace(erased, PasswordChange::Remove).await.unwrap();
    // The last to close empties the log into the file.
    home.store.take().unwrap().close().await;
    let file = std::fs::read(home.path()).unwrap();
    for trace in ["Qwertzuiop", "qwertzuiop", "qwertzui", "sdfghjkl", "Zyxwvuts", "nbvcxy"] {
        assert!(!file.windows(trace.len()).any(|window| window == trace.as_bytes()), "{trace}");
    }
    home.check_integrity();
}

#[tokio::test]
async fn a_closed_store_refuses_and_says_so() {
    let home = open().await;
    home.close().await;
    assert!(matches!(home.user_get(&name("alice")).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(home.user_create(user("alice"), hash("x")).await, Err(StoreError::Unavailable(_))));
}
