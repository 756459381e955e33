//! What the embedded store keeps when its process is killed in the middle of many writes.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use doorward::store::sqlite::SqliteStore;
use doorward::store::{PasswordChange, Store};
use futures_util::StreamExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::contract::{create, name, next, user};
use crate::support::count;

/// Names the file that the victim writes to.
const FILE: &str = "DOORWARD_TEST_VICTIM_FILE";

#[tokio::test]
async fn r01_no_acknowledged_write_is_lost_when_the_process_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("doorward.db");
    let mut random = StdRng::seed_from_u64(31);
    let mut acknowledged: HashMap<String, u64> = HashMap::new();
    for _ in 0..count(5, 200) {
        let after = random.random_range(1..600);
        acknowledged.extend(acknowledged_by_a_victim(&path, after));
        check(&path, &acknowledged).await;
    }
}

/// Starts a process that writes, kills it after so many answers, and gives the revisions it knew to be kept.
fn acknowledged_by_a_victim(path: &Path, after: usize) -> HashMap<String, u64> {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::killed::victim", "--ignored", "--nocapture"])
        .env(FILE, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = HashMap::new();
    let mut answers = 0;
    for line in BufReader::new(victim.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let ["kept", username, rev] = line.split(' ').collect::<Vec<_>>()[..] else { continue };
        acknowledged.insert(username.to_owned(), rev.parse().unwrap());
        answers += 1;
        if answers == after {
            victim.kill().unwrap();
        }
    }
    victim.wait().unwrap();
    assert!(answers >= after, "the victim died by itself");
    acknowledged
}

async fn check(path: &Path, acknowledged: &HashMap<String, u64>) {
    let store = SqliteStore::open(path).unwrap();
    for (username, &rev) in acknowledged {
        let user = store.user_get(&name(username)).await.unwrap().expect("an acknowledged user");
        assert!(user.rev >= rev, "{username} is at {} and was acknowledged at {rev}", user.rev);
        assert_eq!(user.bio, format!("bio {}", user.rev), "a half-applied write");
    }
    // The feed shows every user once, up to the position.
    let changes = store.changes_after(&store.start().await.unwrap(), usize::MAX).await.unwrap();
    assert_eq!(changes.records.len() as u64, store.user_count(None).await.unwrap());
    assert_eq!(changes.position, store.position().await.unwrap());
    store.close().await;
    let connection = rusqlite::Connection::open(path).unwrap();
    let answer: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(answer, "ok");
    connection.execute("INSERT INTO users_fts (users_fts) VALUES ('integrity-check')", []).unwrap();
}

/// Writes until it is killed, with a hundred calls in flight, and says what was acknowledged.
#[tokio::test]
#[ignore = "it is started by the test that kills it"]
async fn victim() {
    let store = SqliteStore::open(&PathBuf::from(std::env::var(FILE).unwrap())).unwrap();
    let first = store.user_count(None).await.unwrap();
    let store = &store;
    let lives = (first..).map(async |at| {
        let mut user = user(&format!("user{at}"));
        user.bio = "bio 1".into();
        create(store, &user).await;
        say(&user.username.key(), 1);
        for rev in 2..5 {
            user = next(&user, |user| {
                user.bio = format!("bio {rev}");
                user.display_name = format!("name {rev}");
            });
            store.user_replace(user.clone(), PasswordChange::Keep).await.unwrap();
            say(&user.username.key(), rev);
        }
    });
    futures_util::stream::iter(lives).buffer_unordered(100).collect::<()>().await;
}

#[expect(clippy::print_stdout, reason = "the killer reads it")]
fn say(username: &str, rev: u64) {
    println!("kept {username} {rev}");
}
