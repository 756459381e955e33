//! A wrong ES_URL, or a cluster that cannot be used: one line that names the cause, and never a secret.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::open;
use crate::start::{Place, assert_one};
use crate::support::elastic::{Node, elastic_address, elastic_url};
use crate::support::{Indices, PATIENCE, Process, SECRETS, TlsProxy, lasting_address};

/// A password that must not be shown.
const CANARY: &str = "canary-of-a-password";

/// The start fails with one line that has this part and no secret.
async fn refused(url: &str, settings: &[(&str, &str)], part: &str) {
    let patience = [
        ("ES_URL", url),
        ("DOORWARD_ES_START_SECONDS", "2"),
        ("DOORWARD_ES_REQUEST_TIMEOUT_MS", "1000"),
        // That it waits is in the log, too.
        ("DOORWARD_LOG", "error"),
    ];
    let lines = Place::new().refused(&[&SECRETS[..], &patience, settings].concat()).await;
    assert_one(&lines, part);
    for secret in [CANARY, SECRETS[0].1, SECRETS[1].1] {
        assert!(!lines[0].contains(secret), "{lines:?}");
    }
}

/// A server that waits for some bytes and answers with these, whatever they were.
async fn server_that_says(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                // Whoever only looks whether somebody listens sends nothing.
                if socket.read(&mut [0; 4096]).await.is_ok_and(|bytes| bytes > 0) {
                    let _ = socket.write_all(answer.as_bytes()).await;
                }
            });
        }
    });
    format!("http://{address}")
}

/// Changes something of the shared server.
async fn put(path: &str, body: Value) {
    let url = format!("{}/{path}", elastic_url());
    reqwest::Client::new().put(url).json(&body).send().await.unwrap().error_for_status().unwrap();
}

#[tokio::test]
async fn an_es_url_that_is_none_is_told_without_asking_anybody() {
    for (url, part) in [
        ("nothing of the kind", ": ES_URL: must be http or https URLs"),
        ("ftp://127.0.0.1:9200", ": ES_URL: must be http or https URLs"),
        ("http://127.0.0.1:9200,", ": ES_URL: must be http or https URLs"),
        ("http://elastic:canary-of-a-password@127.0.0.1:9200", ": ES_URL: must not hold credentials"),
        ("http://127.0.0.1:9200/?pretty", ": ES_URL: must not hold a query"),
    ] {
        let lines = Place::new().settings_refused(&[&SECRETS[..], &[("ES_URL", url)]].concat()).await;
        assert_one(&lines, part);
        assert!(!lines[0].contains(CANARY), "{lines:?}");
    }
}

#[tokio::test]
async fn s10_with_a_cluster_the_secrets_must_be_set() {
    for (missing, set) in [(SECRETS[0].0, SECRETS[1]), (SECRETS[1].0, SECRETS[0])] {
        let lines = Place::new().settings_refused(&[("ES_URL", "http://127.0.0.1:9200"), set]).await;
        assert_one(&lines, &format!(": {missing}: must be set with ES_URL"));
    }
}

#[tokio::test]
async fn a_file_of_certificates_that_is_none_is_told_when_settings_are_checked() {
    let place = Place::new();
    let notes = place.put("notes.txt", "no certificate\n");
    for path in ["no-such-file.pem", "/", notes.to_str().unwrap()] {
        let settings = [("ES_URL", "https://127.0.0.1:9200"), ("DOORWARD_ES_CA_FILE", path)];
        let lines = Place::new().settings_refused(&[&SECRETS[..], &settings].concat()).await;
        assert_one(&lines, &format!(": DOORWARD_ES_CA_FILE: {path}: "));
    }
}

#[tokio::test]
async fn where_nothing_listens_the_start_waits_and_then_tells_so() {
    let free = lasting_address();
    let began = std::time::Instant::now();
    refused(&format!("http://{free}"), &[], &format!(": ES_URL: cannot connect to {free}: ")).await;
    assert!(began.elapsed() >= std::time::Duration::from_secs(1), "it did not wait");
}

#[tokio::test]
async fn r11_a_start_that_waits_for_its_store_ends_at_a_signal() {
    for signal in [Signal::TERM, Signal::INT] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let place = Place::new();
        let mut command = Process::command(&place.data(), &[&SECRETS[..], &[("ES_URL", &url)]].concat());
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        // It has asked, and is never answered.
        let _connection = timeout(PATIENCE, listener.accept()).await.expect("it asks").unwrap();
        let id = child.id().and_then(|id| Pid::from_raw(id.try_into().unwrap())).unwrap();
        kill_process(id, signal).unwrap();
        let status = timeout(PATIENCE, child.wait()).await.expect("it ends at once").unwrap();
        assert_eq!(status.code(), Some(0), "{signal:?}");
    }
}

#[tokio::test]
async fn what_does_not_speak_the_protocol_is_told() {
    let ssh = server_that_says("SSH-2.0-OpenSSH_9.2p1\r\n").await;
    refused(&ssh, &[], ": ES_URL: what answers does not speak HTTP").await;
    let noise = server_that_says("\u{1}\u{2}\u{3}\u{4}noise").await;
    refused(&noise, &[], ": ES_URL: what answers does not speak HTTP").await;
    let page = server_that_says("HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>").await;
    refused(&page, &[], ": ES_URL: what answered 200 is not Elasticsearch").await;
    let missing = server_that_says("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
    refused(&missing, &[], ": ES_URL: what answered 404 is not Elasticsearch").await;
    let silent = server_that_says("").await;
    refused(&silent, &[], ": ES_URL: ").await;
    let plain = elastic_url().replace("http://", "https://");
    refused(&plain, &[], ": ES_URL: the TLS handshake failed").await;
}

#[tokio::test]
async fn a_cluster_that_wants_other_credentials_is_told() {
    let told = ": ES_URL: Elasticsearch refuses our credentials (401); see DOORWARD_ES_API_KEY";
    let tiny = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    refused(&server_that_says(tiny).await, &[], told).await;
    let node = Node::locked("the password of the admin", &[("watcher", json!({"cluster": ["monitor"]}))]).await;
    refused(&node.url(), &[], told).await;
    let wrong = [("DOORWARD_ES_USERNAME", "watcher"), ("DOORWARD_ES_PASSWORD", CANARY)];
    refused(&node.url(), &wrong, told).await;
    refused(&node.url(), &[("DOORWARD_ES_API_KEY", "Y2FuYXJ5LW9mLWEtcGFzc3dvcmQ=")], told).await;
    // Known, but without the rights.
    let poor = [("DOORWARD_ES_USERNAME", "watcher"), ("DOORWARD_ES_PASSWORD", "the password of the admin")];
    refused(&node.url(), &poor, ": ES_URL: Elasticsearch answered 403 security_exception").await;
}

#[tokio::test]
async fn what_is_not_ours_under_our_names_is_named_and_left_alone() {
    for kind in ["users", "emails", "sessions", "state"] {
        let indices = Indices::new();
        let (prefix, name) = (indices.prefix.as_str(), format!("{}-{kind}", indices.prefix));
        put(&name, json!({})).await;
        let part = format!("the index {name} is not one of Doorward's");
        refused(&elastic_url(), &[("DOORWARD_INDEX_PREFIX", prefix)], &part).await;

        let indices = Indices::new();
        let (prefix, name) = (indices.prefix.as_str(), format!("{}-{kind}", indices.prefix));
        put(&format!("{prefix}-others"), json!({"aliases": {name: {}}})).await;
        let part = format!("the index {prefix}-others is not one of Doorward's");
        refused(&elastic_url(), &[("DOORWARD_INDEX_PREFIX", prefix)], &part).await;
    }
}

#[tokio::test]
async fn r14_indices_of_a_newer_schema_are_refused() {
    let indices = Indices::new();
    open(&indices).await;
    let meta = json!({"_meta": {"doorward": {"kind": "users", "schema": 99, "formers": []}}});
    put(&format!("{}-users/_mapping", indices.prefix), meta).await;
    let prefix = [("DOORWARD_INDEX_PREFIX", indices.prefix.as_str())];
    refused(&elastic_url(), &prefix, "the indices have schema version 99").await;
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_told_with_the_setting_that_makes_it_so() {
    let proxy = TlsProxy::start(elastic_address(), "localhost").await;
    let url = format!("https://localhost:{}", proxy.port);
    let unknown = ": ES_URL: the certificate is of an unknown authority; DOORWARD_ES_CA_FILE names the file";
    refused(&url, &[], unknown).await;
    let place = Place::new();
    let other = place.put("other.pem", TlsProxy::start(elastic_address(), "localhost").await.authority);
    refused(&url, &[("DOORWARD_ES_CA_FILE", other.to_str().unwrap())], unknown).await;
    let own = place.put("own.pem", &proxy.authority);
    let numbers = url.replace("localhost", "127.0.0.1");
    refused(&numbers, &[("DOORWARD_ES_CA_FILE", own.to_str().unwrap())], ": ES_URL: the certificate is not good: ")
        .await;
}

#[tokio::test]
async fn an_authority_in_the_place_of_a_servers_certificate_is_told() {
    let proxy = TlsProxy::of_its_authority(elastic_address(), "localhost").await;
    let url = format!("https://localhost:{}", proxy.port);
    let place = Place::new();
    let own = place.put("own.pem", &proxy.authority);
    let told = ": ES_URL: the certificate is that of an authority, and no server's";
    refused(&url, &[("DOORWARD_ES_CA_FILE", own.to_str().unwrap())], told).await;
}
