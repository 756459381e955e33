//! A disk without room: errors that say so, reads that go on, and no restart to recover.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::check_integrity;
use crate::support::{Failure, PASSWORD, Process, TestClient};

/// A file that takes all the room there is, until dropped.
struct Ballast(PathBuf);

impl Ballast {
    fn fill(folder: &Path) -> Self {
        let path = folder.join("ballast");
        let mut file = File::create(&path).unwrap();
        let refusal = loop {
            if let Err(error) = file.write_all(&[0; 4096]) {
                break error;
            }
        };
        assert_eq!(refusal.kind(), ErrorKind::StorageFull);
        Self(path)
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).expect("it was there");
    }
}

async fn rename(alice: &mut TestClient, name: &str) -> Result<Value, Failure> {
    let patch = json!({"display_name": name, "bio": name.repeat(50)});
    Ok(alice.call("users.update", json!({"username": "me", "patch": patch})).await?["user"].clone())
}

#[tokio::test]
async fn r02_on_a_full_disk_writes_are_refused_reads_go_on_and_room_is_enough_to_recover() {
    let temporary = tempfile::tempdir().unwrap();
    let data = temporary.path().join("data");
    let gateway = Process::spawn(Process::command_on_mount("size=4m", &data, &[("DOORWARD_LOG", "off")])).await;
    // The mount as the gateway sees it.
    let seen = PathBuf::from(format!("/proc/{}/root{}", gateway.id(), data.display()));
    let mut alice = TestClient::connect(gateway.address, &[]).await;
    let mut acknowledged = alice.register("alice").await["user"].clone();
    assert_eq!(gateway.ready().await, 200);

    for time in 0..3 {
        let ballast = Ballast::fill(&seen);
        let mut writes = 0;
        let refusal = loop {
            match rename(&mut alice, &format!("full {time} {writes}")).await {
                Ok(user) => acknowledged = user,
                Err(refusal) => break refusal,
            }
            writes += 1;
            assert!(writes < 1000, "the disk is full, and yet it writes");
        };
        assert_eq!((refusal.code, &refusal.data["kind"]), (1501, &json!("store_unavailable")));
        assert_eq!(refusal.data["retryable"], true);
        for attempt in 0..20 {
            assert_eq!(rename(&mut alice, &format!("again {attempt}")).await.unwrap_err().code, 1501);
        }
        let mut bob = TestClient::connect(gateway.address, &[]).await;
        let params = json!({"username": "bob", "email": "bob@example.com", "password": PASSWORD});
        assert_eq!(bob.call("auth.register", params).await.unwrap_err().code, 1501);

        // A login is a session to be kept, and so a write; a token is only read.
        bob.call("auth.authenticate", json!({"access_token": alice.token.clone()})).await.unwrap();
        assert_eq!(bob.call("users.get", json!({"username": "me"})).await.unwrap()["user"], acknowledged);
        let found = bob.call("users.list", json!({"count": "exact"})).await.unwrap();
        assert_eq!((&found["users"][0]["rev"], &found["count"]), (&acknowledged["rev"], &json!(1)));
        let found = bob.call("users.search", json!({"text": "alice"})).await.unwrap();
        assert_eq!(found["hits"].as_array().unwrap().len(), 1);
        // A probe is one page, of which there may be room for a few more than for a whole change, twice a second.
        gateway.becomes(503).await;

        drop(ballast);
        let rev = acknowledged["rev"].as_u64().unwrap();
        acknowledged = rename(&mut alice, &format!("room {time}")).await.expect("there is room again");
        assert_eq!(acknowledged["rev"], rev + 1);
        gateway.becomes(200).await;
    }

    for file in ["doorward.db", "doorward.db-wal"] {
        std::fs::copy(seen.join(file), temporary.path().join(file)).unwrap();
    }
    assert_eq!(check_integrity(temporary.path()), "ok");
}
