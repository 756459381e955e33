//! `doorward watch`, beside a gateway that is killed and through a proxy with TLS.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::time::Duration;

use doorward::store::Store;
use doorward::users::{Session, Username};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

use crate::support::{Home, PASSWORD, PATIENCE, Process, TestClient, TlsProxy, admin_beside, lasting_address};

/// Changes a user makes on each gateway.
const CHANGES: usize = 50;

/// The next line that a watch prints, as JSON.
async fn next(lines: &mut Lines<BufReader<ChildStdout>>) -> Value {
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("it prints in time").unwrap();
    serde_json::from_str(&line.expect("it runs")).unwrap()
}

/// A watch that alice has logged in to; it ends when dropped.
struct Watching {
    _process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

async fn log_in_to_watch(home: &Home, url: &str) -> Watching {
    let mut command = home.command(&[]);
    command.args(["watch", "--login", "alice", "--password-stdin", "--json", "--url", url]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut process = command.spawn().unwrap();
    process.stdin.take().unwrap().write_all(format!("{PASSWORD}\n").as_bytes()).await.unwrap();
    let lines = BufReader::new(process.stdout.take().unwrap()).lines();
    Watching { _process: process, lines }
}

/// The one session that alice's watch has open, as soon as it is like that.
async fn session_of_watch(store: &dyn Store, is_so: impl Fn(&Session) -> bool) -> Session {
    let found = async {
        loop {
            let sessions = store.sessions_of(&Username::parse("alice").unwrap()).await.unwrap();
            let mut of_watch = sessions.into_iter().filter(|one| one.device.as_deref() == Some("doorward watch"));
            let session = of_watch.next();
            assert_eq!(of_watch.next(), None, "it has logged in anew");
            if let Some(session) = session.filter(&is_so) {
                return session;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.expect("it goes on")
}

#[tokio::test]
async fn watch_prints_every_change_once_or_more_though_the_gateway_is_killed() {
    let home = Home::of_this_run();
    let address = lasting_address().to_string();
    let mut gateway = home.start(&[("DOORWARD_LISTEN", &address)]).await;
    let token = admin_beside(&gateway, &home, "keeper").await.token;
    let mut command = home.command(&[("DOORWARD_LISTEN", &address)]);
    let filter = r#"{"bio": 0}"#;
    let refused = {
        let mut command = home.command(&[("DOORWARD_LISTEN", &address)]);
        command.args(["watch", "--token", &token, "--filter", filter]);
        Process::run(command, "").await
    };
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(refused.stderr.starts_with("doorward: Parameter filter.bio"), "{}", refused.stderr);

    command.args(["watch", "--login", "keeper", "--password-stdin", "--json", "--since", "start"]);
    command.args(["--filter", r#"{"username": {"eq": "keeper"}}"#]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut watch = command.spawn().unwrap();
    watch.stdin.take().unwrap().write_all(format!("{PASSWORD}\n").as_bytes()).await.unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    assert_eq!(next(&mut lines).await["kind"], "created");
    let (mut acknowledged, mut printed) = (BTreeSet::new(), BTreeMap::new());
    for round in 0..3 {
        if round > 0 {
            gateway.kill().await;
            gateway = home.start(&[("DOORWARD_LISTEN", &address)]).await;
        }
        let mut keeper = TestClient::reach(gateway.address, &token).await.unwrap();
        for change in 0..CHANGES {
            let patch = json!({"username": "me", "patch": {"bio": format!("{round} {change}")}});
            let rev = keeper.call("users.update", patch).await.unwrap()["user"]["rev"].as_u64().unwrap();
            acknowledged.insert(rev);
        }
        // Those made before it was back are there in their newest state only.
        let newest = acknowledged.last().copied();
        while printed.last_key_value().map(|(rev, _)| *rev) < newest {
            let line = next(&mut lines).await;
            let rev = line["user"]["rev"].as_u64().unwrap();
            printed.insert(rev, line["user"]["bio"].clone());
        }
    }
    assert!(printed.keys().all(|rev| acknowledged.contains(rev)), "nothing else");
    eprintln!("{} changes acknowledged over 2 kills, {} states printed", acknowledged.len(), printed.len());
    watch.kill().await.unwrap();
}

#[tokio::test]
async fn watch_goes_on_with_the_session_of_its_login_when_tokens_expire_and_the_gateway_is_killed() {
    let home = Home::of_this_run();
    let address = lasting_address().to_string();
    let settings = [("DOORWARD_LISTEN", &*address), ("DOORWARD_TOKEN_SECONDS", "10")];
    let mut gateway = home.start(&settings).await;
    TestClient::connect(gateway.address, &[]).await.register("alice").await;
    let mut watch = log_in_to_watch(&home, &format!("ws://{address}/rpc")).await;
    let store = home.store().await;
    for token in [2, 3] {
        // A token is refreshed in time, and after the kill there is another connection.
        session_of_watch(&*store, |session| session.token >= token).await;
        let mut alice = TestClient::connect(gateway.address, &[]).await;
        alice.login("alice").await;
        let bio = json!(token.to_string());
        alice.call("users.update", json!({"username": "me", "patch": {"bio": bio}})).await.unwrap();
        while next(&mut watch.lines).await["user"]["bio"] != bio {}
        gateway.kill().await;
        gateway = home.start(&settings).await;
    }
}

#[tokio::test]
async fn watch_logs_in_anew_when_its_session_is_over() {
    // A gateway over a folder is not told of what others do to the sessions there: only the refresh is refused.
    let home = Home::embedded();
    let gateway = home.start(&[("DOORWARD_TOKEN_SECONDS", "10")]).await;
    TestClient::connect(gateway.address, &[]).await.register("alice").await;
    let mut watch = log_in_to_watch(&home, &format!("ws://{}/rpc", gateway.address)).await;
    let store = home.store().await;
    let session = session_of_watch(&*store, |_| true).await;
    store.session_replace(Session { ended: true, rev: session.rev + 1, ..session.clone() }).await.unwrap();
    session_of_watch(&*store, |other| other.id != session.id).await;
    let mut alice = TestClient::connect(gateway.address, &[]).await;
    alice.login("alice").await;
    alice.call("users.update", json!({"username": "me", "patch": {"bio": "still told"}})).await.unwrap();
    while next(&mut watch.lines).await["user"]["bio"] != "still told" {}
}

#[tokio::test]
async fn watch_goes_through_a_proxy_with_tls_whose_authority_it_was_told_of() {
    let home = Home::of_this_run();
    let gateway = home.start(&[]).await;
    let token = admin_beside(&gateway, &home, "keeper").await.token;
    let (proxy, other) =
        (TlsProxy::start(gateway.address, "localhost").await, TlsProxy::start(gateway.address, "elsewhere").await);
    let folder = tempfile::tempdir().unwrap();
    let ca_file = |name: &str, authority: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, authority).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (known, known_elsewhere) = (ca_file("a.pem", &proxy.authority), ca_file("b.pem", &other.authority));
    let command = |url: &str, ca_file: Option<&str>| {
        let mut command = home.command(&[]);
        command.args(["watch", "--token", &token, "--json", "--since", "start", "--url", url]);
        command.args(ca_file.map(|path| ["--ca-file", path]).into_iter().flatten());
        command
    };

    let (port, plain) = (proxy.port, gateway.address.port());
    for (url, ca_file, told) in [
        (
            format!("wss://localhost:{port}/rpc"),
            None,
            "the gateway's certificate is of an unknown authority; --ca-file",
        ),
        (format!("wss://localhost:{port}/rpc"), Some(&*known_elsewhere), "the gateway's certificate is of an unknown"),
        (
            format!("wss://localhost:{}/rpc", other.port),
            Some(&*known_elsewhere),
            "the gateway's certificate is not good: ",
        ),
        (format!("wss://localhost:{plain}/rpc"), Some(&*known), "what answers does not speak TLS"),
        (format!("ws://localhost:{port}/rpc"), None, "what answers does not speak HTTP; with TLS the URL is wss://"),
        (format!("wss://localhost:{port}/rpc"), Some("/"), "--ca-file: /: "),
        (format!("ftp://localhost:{port}/rpc"), None, "the URL must be "),
    ] {
        let ended = Process::run(command(&url, ca_file), "").await;
        assert_eq!((ended.code, ended.stderr.lines().count()), (Some(1), 1), "{url} {ca_file:?}: {}", ended.stderr);
        assert!(ended.stderr.starts_with(&format!("doorward: {told}")), "{url} {ca_file:?}: {}", ended.stderr);
    }

    for scheme in ["wss", "https"] {
        let mut command = command(&format!("{scheme}://localhost:{port}/rpc"), Some(&known));
        let mut watch = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
        assert_eq!(next(&mut lines).await["user"]["username"], "keeper", "{scheme}");
    }
}
