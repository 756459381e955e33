//! Standard output and standard error that are full, closed or not read: nothing panics or hangs, and what failed is told.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use tokio::process::Command;

use crate::metrics::{scrape, value};
use crate::support::{
    Ended, Home, PASSWORD, PATIENCE, Process, TestClient, admin_beside, bound, count, lasting_address,
};

/// An output that takes nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Broken {
    /// As on a disk without room.
    Full,
    /// A pipe whose reader is gone.
    Closed,
}

impl From<Broken> for Stdio {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Full => OpenOptions::new().write(true).open("/dev/full").unwrap().into(),
            Broken::Closed => std::io::pipe().unwrap().1.into(),
        }
    }
}

/// A pipe that is full and that nobody reads, for as long as the reader is kept.
fn stalled() -> (tokio::net::unix::pipe::Receiver, Stdio) {
    let (writer, reader) = tokio::net::unix::pipe::pipe().unwrap();
    for size in [4096, 1] {
        while writer.try_write(&vec![b'.'; size]).is_ok() {}
    }
    (reader, writer.into_blocking_fd().unwrap().into())
}

/// Runs a command whose standard output is broken.
async fn run_with_stdout(mut command: Command, broken: Broken, input: &str) -> Ended {
    command.stdin(Stdio::piped()).stdout(broken).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut stdin = child.stdin.take().unwrap();
    let _ = tokio::io::AsyncWriteExt::write_all(&mut stdin, input.as_bytes()).await;
    drop(stdin);
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("it ends").unwrap();
    Ended { code: output.status.code(), stdout: String::new(), stderr: String::from_utf8(output.stderr).unwrap() }
}

#[tokio::test]
async fn a_command_whose_output_cannot_be_written_says_so_and_fails() {
    let home = Home::of_this_run();
    let gateway = home.start(&[]).await;
    let url = format!("http://{}/readyz", gateway.address);
    for (broken, name) in [(Broken::Full, "full"), (Broken::Closed, "closed")] {
        let email = format!("{name}@example.com");
        let cases: [(&[&str], &str); 7] = [
            (&["admin", "create", name, "--email", &email, "--password-stdin"], "is an admin now."),
            (&["admin", "promote", name], "is an admin now."),
            (&["migrate"], ""),
            (&["check-config"], "The settings are good."),
            (&["health", "--url", &url], "ready"),
            (&["--version"], ""),
            (&["--help"], ""),
        ];
        for (args, unsaid) in cases {
            let mut command = home.command(&[]);
            command.args(args);
            let ended = run_with_stdout(command, broken, PASSWORD).await;
            assert_eq!(ended.code, Some(1), "{broken:?} {args:?}: {}", ended.stderr);
            let said = ended.said();
            let told = said.lines().last().unwrap();
            assert!(told.starts_with("doorward: standard output cannot be written: "), "{broken:?} {args:?}: {said}");
            assert!(told.contains(unsaid), "what it was to say is told where it can be: {told}");
        }
        TestClient::connect(gateway.address, &[]).await.login(name).await;
    }
}

#[tokio::test]
async fn a_gateway_serves_without_its_standard_output() {
    let (_reader, full_pipe) = stalled();
    for (name, stdout) in [("full", Broken::Full.into()), ("closed", Broken::Closed.into()), ("stalled", full_pipe)] {
        let home = Home::of_this_run();
        let address = lasting_address();
        let mut command = home.command(&[("DOORWARD_LISTEN", &address.to_string())]);
        command.stdout(stdout).stderr(Stdio::piped());
        let mut gateway = Running(command.spawn().unwrap());
        gateway.is_ready(address).await;
        TestClient::connect(address, &[]).await.register("alice").await;
        gateway.signal(Signal::TERM);
        let output = tokio::time::timeout(PATIENCE, gateway.0.wait_with_output()).await.expect("it ends").unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{name}: {log}");
        assert_eq!(log.contains("standard output cannot be written"), name != "stalled", "{log}");
    }
}

/// A gateway whose standard output is not there to say where it listens.
struct Running(tokio::process::Child);

impl Running {
    async fn is_ready(&mut self, address: std::net::SocketAddr) {
        let url = format!("http://{address}/readyz");
        let asked = async {
            while !reqwest::get(&url).await.is_ok_and(|answer| answer.status() == 200) {
                assert_eq!(self.0.try_wait().unwrap(), None, "it has ended");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.expect("it serves");
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.0.id().expect("it runs")).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(id).unwrap(), signal).unwrap();
    }
}

#[tokio::test]
async fn watch_fails_loudly_where_lines_are_lost_and_ends_quietly_with_its_reader() {
    let home = Home::of_this_run();
    let gateway = home.start(&[]).await;
    let token = admin_beside(&gateway, &home, "keeper").await.token;
    let url = format!("ws://{}/rpc", gateway.address);
    for json in [true, false] {
        for (broken, code, told) in
            [(Broken::Full, 1, "doorward: standard output cannot be written: "), (Broken::Closed, 0, "")]
        {
            let mut command = home.command(&[]);
            command.args(["watch", "--token", &token, "--since", "start", "--url", &url]);
            command.args(json.then_some("--json"));
            let ended = run_with_stdout(command, broken, "").await;
            assert_eq!((ended.code, ended.stderr.lines().count()), (Some(code), told.lines().count()), "{broken:?}");
            assert!(ended.stderr.starts_with(told), "{broken:?}: {}", ended.stderr);
        }
    }
}

#[tokio::test]
async fn nothing_panics_where_standard_error_cannot_be_written() {
    for broken in [Broken::Full, Broken::Closed] {
        let home = Home::of_this_run();
        let run = async |args: &[&str], settings: &[(&str, &str)]| {
            let mut command = home.command(settings);
            command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(broken);
            let mut child = command.spawn().unwrap();
            let mut stdin = child.stdin.take().unwrap();
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stdin, PASSWORD.as_bytes()).await;
            drop(stdin);
            let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("it ends").unwrap();
            (output.status.code(), String::from_utf8(output.stdout).unwrap())
        };
        let create = ["admin", "create", "keeper", "--email", "keeper@example.com", "--password-stdin"];
        assert_eq!(run(&create, &[]).await, (Some(0), "keeper is an admin now.\n".to_owned()), "{broken:?}");
        assert_eq!(run(&create, &[]).await, (Some(1), String::new()), "{broken:?}: the name is taken");
        assert_eq!(run(&["check-config"], &[("DOORWARD_LISTN", "1")]).await, (Some(1), String::new()), "{broken:?}");
        assert_eq!(run(&["--nonsense"], &[]).await, (Some(2), String::new()), "{broken:?}");

        let mut command = home.command(&[]);
        command.stderr(broken);
        let mut gateway = Process::spawn(command).await;
        TestClient::connect(gateway.address, &[]).await.login("keeper").await;
        let mut alice = TestClient::connect(gateway.address, &[]).await;
        alice.register("alice").await;
        // Each event of the audit trail is one line lost, and counted.
        lost(&gateway, 2.0).await;
        gateway.signal(Signal::TERM);
        assert!(gateway.wait().await.success(), "{broken:?}");
    }
}

/// Waits until so many lines of the audit trail are counted as lost.
async fn lost(gateway: &Process, lines: f64) {
    let counted = async {
        while value(&scrape(gateway).await, r#"doorward_log_lost_total{what="audit"}"#) != Some(lines) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, counted).await.expect("they are counted");
}

/// Has alice change herself so often, each time a line of the audit trail.
async fn change(alice: &mut TestClient, times: usize) {
    for time in 0..times {
        let patch = json!({"bio": time.to_string()});
        alice.call("users.update", json!({"username": "me", "patch": patch})).await.unwrap();
    }
}

#[tokio::test]
async fn a_reader_of_the_log_that_stalls_holds_up_neither_calls_nor_probes_nor_signals() {
    let changes = count(600, 5_000);
    for read_at_the_end in [true, false] {
        let home = Home::of_this_run();
        let mut command = home.command(&[("DOORWARD_LOG_FORMAT", "json")]);
        let (reader, writer) = std::io::pipe().unwrap();
        command.stderr(writer);
        let mut gateway = Process::spawn(command).await;
        let mut alice = TestClient::connect(gateway.address, &[]).await;
        alice.register("alice").await;
        // A pipe takes 64 KiB; a line is longer than 200 bytes.
        change(&mut alice, changes).await;
        let live = reqwest::get(format!("http://{}/healthz", gateway.address)).await.unwrap();
        assert_eq!((live.status().as_u16(), gateway.ready().await), (200, 200));
        assert_eq!(value(&scrape(&gateway).await, r#"doorward_log_lost_total{what="audit"}"#), Some(0.0));

        let read = read_at_the_end.then(|| {
            std::thread::spawn(move || BufReader::new(reader).lines().map(Result::unwrap).collect::<Vec<_>>())
        });
        let begun = std::time::Instant::now();
        gateway.signal(Signal::TERM);
        assert!(gateway.wait().await.success());
        // Sockets are told to come back within a moment, and what is left of the log has two seconds.
        assert!(begun.elapsed() < bound(Duration::from_secs(5)), "it took {:?} to stop", begun.elapsed());
        if let Some(read) = read {
            let lines = read.join().unwrap();
            let updates = lines.iter().filter(|line| line.contains(r#""event":"updated""#)).count();
            assert_eq!(updates, changes, "no line was lost, and each is whole");
        }
    }
}

#[tokio::test]
async fn lines_that_were_lost_are_counted_and_told_when_the_log_goes_on() {
    let home = Home::of_this_run();
    let mount = home.data().with_extension("log.d");
    std::fs::create_dir_all(&mount).unwrap();
    // A disk of its own for the log, small enough to be filled.
    let script = format!(
        "mount -t tmpfs -o size=256k tmpfs {0} && head -c 1M /dev/zero >{0}/ballast; exec \"$@\" 2>{0}/log",
        mount.display()
    );
    let mut unshare = Command::new("unshare");
    let namespace: &[&str] =
        if rustix::process::geteuid().is_root() { &["--mount"] } else { &["--mount", "--map-root-user"] };
    unshare.args(namespace).args(["sh", "-c", &script, "sh"]);
    let mut command = home.command_within(unshare, &[]);
    command.stderr(Stdio::null());
    let mut gateway = Process::spawn(command).await;
    let seen = PathBuf::from(format!("/proc/{}/root{}", gateway.id(), mount.display()));
    let mut alice = TestClient::connect(gateway.address, &[]).await;
    alice.register("alice").await;
    change(&mut alice, 20).await;
    lost(&gateway, 21.0).await;

    std::fs::remove_file(seen.join("ballast")).unwrap();
    change(&mut alice, 1).await;
    let mut log = String::new();
    let told = async {
        while !log.contains("were lost") {
            tokio::time::sleep(Duration::from_millis(20)).await;
            log.clear();
            File::open(seen.join("log")).unwrap().read_to_string(&mut log).unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("it is told");
    let line = log.lines().find(|line| line.contains("were lost")).unwrap();
    assert!(line.contains("WARN") && line.contains("audit=21"), "{line}");
    assert!(log.contains("audit: event=\"updated\""), "{log}");
    gateway.signal(Signal::TERM);
    assert!(gateway.wait().await.success());
}
