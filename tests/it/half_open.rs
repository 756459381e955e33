//! R12: peers whose packets get lost for good are noticed, and leave nothing behind.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::network::{Remote, is_own};
use crate::support::{PATIENCE, RawClient, TestClient, count, long_run, opcode};

/// Open files of a process.
fn files(id: u32) -> usize {
    std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count()
}

/// What one of the gateway's gauges shows.
async fn gauge(remote: &Remote, name: &str) -> usize {
    let scrape = reqwest::get(format!("http://{}/metrics", remote.metrics)).await.unwrap().text().await.unwrap();
    let value = scrape.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("{name} is missing: {scrape}")).parse().unwrap()
}

#[tokio::test]
async fn r12_half_open_peers_are_gone_in_time_with_their_tasks_and_buffers() {
    if !is_own("half_open::r12_half_open_peers_are_gone_in_time_with_their_tasks_and_buffers") {
        return;
    }
    let peers = count(20, 200);
    let folder = tempfile::tempdir().unwrap();
    let caps = [("DOORWARD_MAX_SOCKETS_PER_USER", "2000"), ("DOORWARD_LOG", "warn")];
    let short = [
        ("DOORWARD_PING_SECONDS", "3"),
        ("DOORWARD_PONG_TIMEOUT_SECONDS", "2"),
        ("DOORWARD_WRITE_TIMEOUT_SECONDS", "3"),
    ];
    let settings = if long_run() { caps.to_vec() } else { [&caps[..], &short[..]].concat() };
    let remote = Remote::start(&folder.path().join("data"), &settings).await;
    let mut healthy = TestClient::connect(remote.kept, &[]).await;
    healthy.register("alice").await;
    let info = healthy.call("system.info", json!({})).await.unwrap()["limits"].clone();
    let seconds = |name: &str| info[name].as_u64().unwrap();
    // 40 s with the defaults.
    let deadline = Duration::from_secs(seconds("ping_seconds").max(seconds("write_seconds")) + 10);
    let settled = files(remote.gateway.id());

    // Idle ones; some who are told every change; some with calls whose answers they do not read.
    let mut lost = Vec::new();
    for number in 0..peers {
        let mut peer = RawClient::upgraded(remote.cut, Some(&healthy.token)).await;
        let calls: &[u8] = match number % 3 {
            0 => b"",
            1 => br#"{"jsonrpc":"2.0","id":1,"method":"users.subscribe"}"#,
            _ => br#"{"jsonrpc":"2.0","id":1,"method":"system.info"}"#,
        };
        if !calls.is_empty() {
            peer.frame(true, opcode::TEXT, calls).await;
            peer.next().await.unwrap();
        }
        for _ in 0..200 * usize::from(number % 3 == 2) {
            peer.frame(true, opcode::TEXT, calls).await;
        }
        lost.push(peer);
    }
    assert_eq!(
        (gauge(&remote, "doorward_sockets").await, gauge(&remote, "doorward_subscriptions").await),
        (peers + 1, (peers + 1) / 3)
    );
    let open = files(remote.gateway.id());
    assert!(open >= settled + peers, "{settled} files before, {open} with {peers} peers");

    remote.cut();
    let cut = Instant::now();
    let mut told = 0;
    while gauge(&remote, "doorward_sockets").await > 1 || files(remote.gateway.id()) > settled + 2 {
        // Each makes a frame of some KiB for all who are subscribed.
        let patch = json!({"attributes": {"told": told, "filling": "x".repeat(4000)}});
        healthy.call("users.update", json!({"username": "me", "patch": patch})).await.unwrap();
        told += 1;
        assert!(cut.elapsed() < deadline + PATIENCE, "they stay");
    }
    let took = cut.elapsed();
    eprintln!("{peers} half-open sockets were gone after {took:?}, with {told} changes to tell them meanwhile");
    assert!(took <= deadline, "{took:?}");
    assert_eq!(gauge(&remote, "doorward_subscriptions").await, 0);
    healthy.call("system.ping", json!({})).await.unwrap();
    drop(lost);
}

#[tokio::test]
async fn r12_a_peer_that_is_lost_while_idle_is_gone_as_soon_when_there_is_much_to_tell_it_later() {
    if !is_own("half_open::r12_a_peer_that_is_lost_while_idle_is_gone_as_soon_when_there_is_much_to_tell_it_later") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let [ping, pong] = if long_run() { [25, 10] } else { [6, 2] };
    let (ping_seconds, pong_seconds) = (ping.to_string(), pong.to_string());
    let settings = [
        ("DOORWARD_PING_SECONDS", ping_seconds.as_str()),
        ("DOORWARD_PONG_TIMEOUT_SECONDS", &pong_seconds),
        ("DOORWARD_LOG", "warn"),
    ];
    let remote = Remote::start(&folder.path().join("data"), &settings).await;
    let mut healthy = TestClient::connect(remote.kept, &[]).await;
    healthy.register("alice").await;
    let mut lost = RawClient::upgraded(remote.cut, Some(&healthy.token)).await;
    lost.frame(true, opcode::TEXT, br#"{"jsonrpc":"2.0","id":1,"method":"users.subscribe"}"#).await;
    lost.next().await.unwrap();
    remote.cut();
    let cut = Instant::now();
    // Just before it would be asked whether it is there.
    tokio::time::sleep(Duration::from_millis(ping * 1_000 - 1_500)).await;
    let mut told = 0;
    while gauge(&remote, "doorward_sockets").await > 1 {
        let patch = json!({"attributes": {"told": told, "filling": "x".repeat(4000)}});
        healthy.call("users.update", json!({"username": "me", "patch": patch})).await.unwrap();
        told += 1;
        assert!(cut.elapsed() < Duration::from_secs(ping + pong) + PATIENCE, "it stays");
    }
    eprintln!("a socket that was lost while idle was gone after {:?}", cut.elapsed());
    assert!(cut.elapsed() <= Duration::from_secs(ping + pong + 5), "{:?}", cut.elapsed());
}
