//! S21: who does not read costs little and loses nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::seam::everyone;
use crate::support::{Home, Process, RawClient, TestClient, TestGateway, admin_beside, count, long_run, opcode};

/// What a measurement of some milliseconds may be off by, whoever reads.
const NOISE: Duration = Duration::from_micros(300);

/// Users who change; each change fills a frame of 4 KiB.
const USERS: usize = 20;

/// The resident memory of a process, in bytes.
fn resident(process: &Process) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

/// Makes `changes` changes, one in each `pace`, and answers with the time from each reply to its notification, sorted.
async fn change_and_hear(
    writer: &mut TestClient,
    healthy: &mut TestClient,
    changes: usize,
    pace: Duration,
) -> Vec<Duration> {
    let mut delays = Vec::new();
    let begun = Instant::now();
    for change in 0..changes {
        tokio::time::sleep_until((begun + pace * change as u32).into()).await;
        let attributes = json!({"change": change, "filling": "x".repeat(4000)});
        let params = json!({"username": format!("user{}", change % USERS), "patch": {"attributes": attributes}});
        let changed = writer.call("users.update", params).await.unwrap();
        let replied = Instant::now();
        loop {
            let heard = healthy.notification("users.changed").await;
            if heard["user"]["username"] == changed["user"]["username"]
                && heard["user"]["rev"] == changed["user"]["rev"]
            {
                break;
            }
        }
        delays.push(replied.elapsed());
    }
    delays.sort_unstable();
    delays
}

/// How long 99 of 100 notifications take at most at 200 changes a second: the least of five measurements, since what else
/// the machine does can only add to it.
async fn p99(writer: &mut TestClient, healthy: &mut TestClient) -> Duration {
    let changes = count(100, 1000);
    let mut least = Duration::MAX;
    for _ in 0..5 {
        let delays = change_and_hear(writer, healthy, changes, Duration::from_millis(5)).await;
        least = least.min(delays[changes * 99 / 100]);
    }
    least
}

#[tokio::test(flavor = "multi_thread")]
async fn s21_sockets_that_do_not_read_cost_little_and_then_get_the_newest_of_everything() {
    let (sockets, changes) = (count(100, 500), count(3000, 6000));
    let home = Home::of_this_run();
    let settings = [
        ("DOORWARD_MAX_SOCKETS_PER_USER", "2000"),
        ("DOORWARD_WRITE_TIMEOUT_SECONDS", "300"),
        ("DOORWARD_PING_SECONDS", "3600"),
        ("DOORWARD_LOG", "warn"),
    ];
    let gateway = home.start(&settings).await;
    let mut writer = admin_beside(&gateway, &home, "keeper").await;
    for number in 0..USERS {
        writer.create(&format!("user{number}")).await;
    }
    let mut healthy = TestClient::reach(gateway.address, &writer.token).await.unwrap();
    healthy.call("users.subscribe", json!({})).await.unwrap();
    let alone = p99(&mut writer, &mut healthy).await;

    let mut stalled = Vec::new();
    for _ in 0..sockets {
        let mut socket = RawClient::upgraded(gateway.address, Some(&writer.token)).await;
        socket.frame(true, opcode::TEXT, br#"{"jsonrpc":"2.0","id":1,"method":"users.subscribe"}"#).await;
        let (_, reply) = socket.next().await.unwrap();
        assert!(String::from_utf8(reply).unwrap().contains("\"subscription\":1"));
        stalled.push(socket);
    }
    let before = resident(&gateway);
    change_and_hear(&mut writer, &mut healthy, changes, Duration::ZERO).await;
    let grown = resident(&gateway).saturating_sub(before);
    let beside = p99(&mut writer, &mut healthy).await;
    // The ring of 2,048 such changes, and a frame or two for each socket.
    let bound = (2048 * 24 + sockets * 64) << 10;
    eprintln!(
        "{sockets} sockets that read nothing during {changes} changes: {} KiB each with the ring; p99 from reply to \
         healthy subscriber {alone:?} alone, {beside:?} beside them",
        grown / sockets / 1024
    );
    // In the short run other tests run besides.
    assert!(!long_run() || beside <= alone.mul_f64(1.2) + NOISE, "{beside:?} instead of {alone:?}");
    assert!(grown < bound, "grown by {grown} bytes");

    let users = everyone(&mut writer).await;
    let expected: BTreeMap<&str, &Value> =
        users.iter().map(|user| (user["username"].as_str().unwrap(), &user["rev"])).collect();
    for socket in &mut stalled {
        let (mut newest, mut frames) = (BTreeMap::<String, u64>::new(), 0);
        while newest.len() < USERS || newest.iter().any(|(name, rev)| expected[name.as_str()] != rev) {
            let (_, payload) = socket.next().await.unwrap();
            let frame: Value = serde_json::from_slice(&payload).unwrap();
            let user = &frame["params"]["user"];
            let (name, rev) = (user["username"].as_str().unwrap().to_owned(), user["rev"].as_u64().unwrap());
            assert!(newest.insert(name, rev).is_none_or(|known| known < rev), "in the order of revisions");
            frames += 1;
        }
        assert!(frames < changes / 2, "{frames} of {changes}: not only the newest");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s21_sockets_that_stop_reading_old_changes_hold_nobody_else_up() {
    let gateway = TestGateway::with(|config| {
        config.limits.sockets_per_user = 1000;
        config.timeouts.write = Duration::from_secs(300);
        // Whose turn it is shall not depend on how busy the machine is.
        config.call_timeout = Duration::from_secs(60);
    })
    .await;
    let mut alice = gateway.admin("alice").await;
    for number in 0..200 {
        let name = format!("user{number}");
        alice.create(&name).await;
        let attributes = json!({"filling": "x".repeat(4000)});
        alice.call("users.update", json!({"username": name, "patch": {"attributes": attributes}})).await.unwrap();
    }
    let everything = br#"{"jsonrpc":"2.0","id":1,"method":"users.subscribe","params":{"since":"start"}}"#;
    let page = br#"{"jsonrpc":"2.0","id":1,"method":"users.changes","params":{"since":"start"}}"#;
    let mut stalled = Vec::new();
    for number in 0..60 {
        let mut socket = RawClient::upgraded(gateway.address, Some(&alice.token)).await;
        // The system takes a few MiB for a socket that does not read.
        for _ in 0..8 {
            let call: &[u8] = if number % 2 == 0 { everything } else { page };
            socket.frame(true, opcode::TEXT, call).await;
        }
        stalled.push(socket);
    }
    // Each asks for its turn at the store many times, behind all of those.
    for _ in 0..10 {
        let mut healthy = TestClient::reach(gateway.address, &alice.token).await.unwrap();
        healthy.call("users.subscribe", json!({"since": "start"})).await.unwrap();
        for _ in 0..100 {
            healthy.notification("users.changed").await;
        }
    }
    drop(stalled);
}
