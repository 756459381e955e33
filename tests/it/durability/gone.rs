//! A database that is taken away under a running gateway: nothing is acknowledged into a file that is lost.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::support::{PASSWORD, PATIENCE, Process, TestClient, bound};

/// A gateway whose log is a file beside its data folder, which it knows by a relative path.
async fn start(data: &Path) -> (Process, TestClient) {
    let mut command = Process::command(data, &[("DOORWARD_DATA_DIR", "data")]);
    command.stderr(File::options().append(true).create(true).open(data.with_extension("log")).unwrap());
    let gateway = Process::spawn(command).await;
    let alice = TestClient::connect(gateway.address, &[]).await;
    (gateway, alice)
}

async fn change(alice: &mut TestClient, bio: &str) -> Result<(), i64> {
    let call = alice.call("users.update", json!({"username": "me", "patch": {"bio": bio}})).await;
    call.map(drop).map_err(|failure| failure.code)
}

/// Changes until one is refused, with what; and holds the gateway to the time in which that must be so.
async fn refused(alice: &mut TestClient) -> i64 {
    let begun = Instant::now();
    let code = loop {
        if let Err(code) = change(alice, &format!("{:?}", begun.elapsed())).await {
            break code;
        }
        assert!(begun.elapsed() < PATIENCE, "it goes on writing");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(begun.elapsed() < bound(Duration::from_secs(2)), "it took {:?}", begun.elapsed());
    code
}

async fn run_admin_create(data: &Path) -> String {
    let mut command = Process::command(data, &[]);
    command.args(["admin", "create", "keeper", "--email", "keeper@example.com", "--password-stdin"]);
    let ended = Process::run(command, PASSWORD).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended.said()
}

/// What happens to the folder, and the file that the log must name.
const CASES: [(&str, &str); 6] = [
    ("the folder is removed", "doorward.db"),
    ("the folder is removed and made anew", "doorward.db"),
    ("the folder is moved", "doorward.db"),
    ("the file is replaced by a copy", "doorward.db"),
    ("its log is removed", "doorward.db-wal"),
    ("the index of its log is removed", "doorward.db-shm"),
];

#[tokio::test]
async fn r02_where_the_database_is_taken_away_writes_are_refused_readiness_fails_and_the_log_says_why() {
    for (case, file) in CASES {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let (gateway, mut alice) = start(&data).await;
        alice.register("alice").await;
        change(&mut alice, "kept").await.unwrap();
        let aside = folder.path().join("aside");
        let database = data.join("doorward.db");
        match case {
            "the folder is removed" => std::fs::remove_dir_all(&data).unwrap(),
            "the folder is removed and made anew" => {
                std::fs::remove_dir_all(&data).unwrap();
                assert!(run_admin_create(&data).await.contains("these are the first users"));
            }
            "the folder is moved" => std::fs::rename(&data, &aside).unwrap(),
            "the file is replaced by a copy" => {
                std::fs::copy(&database, &aside).unwrap();
                std::fs::rename(&aside, &database).unwrap();
            }
            _ => std::fs::remove_file(data.join(file)).unwrap(),
        }
        assert_eq!(refused(&mut alice).await, 1501, "{case}");
        gateway.becomes(503).await;
        let live = reqwest::get(format!("http://{}/healthz", gateway.address)).await.unwrap();
        assert_eq!(live.status(), 200, "{case}");
        // A login is a session to be kept, and so a write; what is known can still be read.
        let login = json!({"login": "alice", "password": PASSWORD});
        let mut other = TestClient::connect(gateway.address, &[]).await;
        assert_eq!(other.call("auth.login", login).await.unwrap_err().code, 1501, "{case}");
        assert!(alice.call("users.list", json!({})).await.is_ok(), "{case}");
        told(&data, file, case).await;

        if case == "the folder is moved" {
            std::fs::rename(&aside, &data).unwrap();
            gateway.becomes(200).await;
            change(&mut alice, "it is back").await.unwrap();
        }
    }
}

/// The log names the file by its absolute path, once.
async fn told(data: &Path, file: &str, case: &str) {
    let path = data.join(file).display().to_string();
    let errors = async {
        loop {
            let log = std::fs::read_to_string(data.with_extension("log")).unwrap();
            let errors: Vec<_> =
                log.lines().filter(|line| line.contains("writes are refused")).map(str::to_owned).collect();
            if !errors.is_empty() {
                return errors;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let errors = tokio::time::timeout(PATIENCE, errors).await.expect("it is logged");
    assert_eq!(errors.len(), 1, "{case}: {errors:?}");
    assert!(
        errors[0].contains("ERROR") && errors[0].contains(&format!("{path} was removed, moved or replaced")),
        "{case}: {errors:?}"
    );
}

#[tokio::test]
async fn r02_what_was_acknowledged_before_the_log_of_the_database_was_removed_is_kept_by_an_orderly_stop() {
    for file in ["doorward.db-wal", "doorward.db-shm"] {
        let folder = tempfile::tempdir().unwrap();
        let data: PathBuf = folder.path().join("data");
        let (mut gateway, mut alice) = start(&data).await;
        alice.register("alice").await;
        change(&mut alice, "kept").await.unwrap();
        std::fs::remove_file(data.join(file)).unwrap();
        gateway.becomes(503).await;
        gateway.signal(Signal::TERM);
        assert!(gateway.wait().await.success());

        let (gateway, mut again) = start(&data).await;
        again.login("alice").await;
        let alice = again.call("users.get", json!({"username": "me"})).await.unwrap();
        assert_eq!(alice["user"]["bio"], "kept", "{file}");
        assert_eq!(gateway.ready().await, 200);
        change(&mut again, "and goes on").await.unwrap();
    }
}
