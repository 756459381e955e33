//! Starting: what is wrong is told in one line each, and nothing half-made is left behind.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{EncodePrivateKey, EncodePublicKey};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::json;
use tokio::net::TcpStream;

use crate::support::{Ended, PATIENCE, Process, TestClient, bound};

/// A secret that must not be shown, although it is refused.
const SHORT_SECRET: &str = "only-this-short-canary";
const EXAMPLE: &str = include_str!("../../.env.example");

/// A place for a data folder, and what is in it.
pub struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn put(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    pub async fn run(&self, args: &[&str], settings: &[(&str, &str)]) -> Ended {
        let mut command = Process::command(&self.data(), settings);
        command.args(args);
        Process::run(command, "").await
    }

    /// Starts it in vain: the lines of its complaint.
    pub async fn refused(&self, settings: &[(&str, &str)]) -> Vec<String> {
        complaint(&self.run(&[], settings).await)
    }

    /// The settings are refused, when starting and when only checking, in the same lines; no file is made.
    pub async fn settings_refused(&self, settings: &[(&str, &str)]) -> Vec<String> {
        let lines = self.refused(settings).await;
        assert_eq!(complaint(&self.run(&["check-config"], settings).await), lines);
        assert_eq!(self.files(), BTreeSet::new());
        lines
    }

    /// What is in the data folder.
    fn files(&self) -> BTreeSet<String> {
        let Ok(entries) = std::fs::read_dir(self.data()) else { return BTreeSet::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

/// The lines of a command that failed and said nothing else.
fn complaint(ended: &Ended) -> Vec<String> {
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{}", ended.stderr);
    let lines: Vec<String> = ended.stderr.lines().map(str::to_owned).collect();
    assert!(lines.iter().all(|line| line.starts_with("doorward: ")), "{lines:?}");
    lines
}

/// Exactly one line, which contains this.
pub fn assert_one(lines: &[String], part: &str) {
    assert!(lines.len() == 1 && lines[0].contains(part), "not one line with {part:?}: {lines:?}");
}

fn files<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

/// The settings of the example file whose default is a number, and those that have none because it depends.
fn numbers() -> Vec<&'static str> {
    let settings = EXAMPLE.lines().filter_map(|line| line.strip_prefix("# ")?.split_once('='));
    let numbers = settings.filter(|(name, value)| *name == "DOORWARD_HASH_THREADS" || value.parse::<u64>().is_ok());
    numbers.map(|(name, _)| name).filter(|name| name.starts_with("DOORWARD_")).collect()
}

#[tokio::test]
async fn every_number_out_of_range_is_told_in_a_line_that_names_it() {
    let numbers = numbers();
    assert!(numbers.len() >= 20, "{numbers:?}");
    for wrong in ["0", "99999999999", "-1", "7.5", "many", " 8"] {
        let settings: Vec<_> = numbers.iter().map(|name| (*name, wrong)).collect();
        let lines = Place::new().settings_refused(&settings).await;
        let told: BTreeSet<&str> = lines.iter().map(|line| line.split(": ").nth(1).unwrap()).collect();
        assert_eq!((told, lines.len()), (numbers.iter().copied().collect(), numbers.len()), "{wrong:?}: {lines:?}");
        assert!(lines.iter().all(|line| line.contains(": must be a whole number from ")), "{lines:?}");
    }
}

#[tokio::test]
async fn a_wrong_or_unknown_setting_is_told_in_a_line_that_names_it() {
    let wrong = [
        ("DOORWARD_LISTEN", "localhost"),
        ("DOORWARD_LOG_FORMAT", "xml"),
        ("DOORWARD_LOG", "info,,=loud"),
        ("DOORWARD_LISTN", "127.0.0.1:1"),
        ("DOORWARD_", "1"),
        ("ES_URL", "ftp://127.0.0.1:9200"),
        ("DOORWARD_PASSWORD_LIST", "no-such-list.txt"),
        ("DOORWARD_PASSWORD_LIST", "/"),
        ("DOORWARD_TRUSTED_PROXIES", "10.0.0.0/33"),
        ("DOORWARD_ALLOWED_ORIGINS", "*"),
        ("DOORWARD_ALLOWED_ORIGINS", "null"),
        ("DOORWARD_ALLOWED_ORIGINS", "https://app.example.com/page"),
        ("DOORWARD_ALLOWED_ORIGINS", "https://app.example.com,"),
        ("DOORWARD_ALLOWED_ORIGINS", "app.example.com"),
        // Names that look as if they matched, and never would.
        ("DOORWARD_ALLOWED_ORIGINS", "https://*.example.com"),
        ("DOORWARD_ALLOWED_ORIGINS", "https://app.example.com/"),
        ("DOORWARD_ALLOWED_ORIGINS", "https://app.example.com?"),
        ("DOORWARD_ALLOWED_ORIGINS", "https://me@app.example.com"),
        ("DOORWARD_ALLOWED_ORIGINS", "wss://app.example.com"),
        ("DOORWARD_ALLOWED_ORIGINS", "file://"),
        ("DOORWARD_ALLOWED_ORIGINS", "file:///index.html"),
        ("DOORWARD_ALLOWED_ORIGINS", "capacitor://localhost/"),
        ("DOORWARD_ALLOWED_ORIGINS", "capacitor://"),
        ("DOORWARD_ALLOWED_ORIGINS", "capacitor:localhost"),
        ("DOORWARD_ALLOWED_ORIGINS", "https://app.example.com https://b.example.com"),
        ("DOORWARD_ALLOWED_ORIGINS", "https://app.example.com;https://b.example.com"),
    ];
    for (name, value) in wrong {
        assert_one(&Place::new().settings_refused(&[(name, value)]).await, &format!(": {name}: "));
    }
}

#[tokio::test]
async fn s10_a_secret_that_is_none_is_refused_and_not_shown() {
    let sample = EXAMPLE.lines().find_map(|line| line.strip_prefix("# JWT_SECRET=")).unwrap();
    assert!(sample.len() >= 32, "refused for its length, not for being known");
    for name in ["JWT_SECRET", "DOORWARD_JWT_ACCEPT_SECRET", "DOORWARD_PASSWORD_PEPPER"] {
        for value in [SHORT_SECRET, sample] {
            let lines = Place::new().settings_refused(&[(name, value)]).await;
            assert_one(&lines, &format!(": {name}: "));
            assert!(!lines[0].contains(value), "{lines:?}");
        }
    }
}

#[tokio::test]
async fn s10_a_key_file_that_is_none_or_that_others_may_write_is_refused_and_not_shown() {
    use std::os::unix::fs::PermissionsExt;
    let key = SigningKey::from_bytes(b"canary-canary-canary-canary-cana");
    let pem = key.to_pkcs8_pem(LineEnding::LF).unwrap();
    let public = key.verifying_key().to_public_key_pem(LineEnding::LF).unwrap();
    let cut = &pem[..pem.len() - 40];
    let none: &[u8] = b"";
    let wrong = [none, b"\xff\xfe", b"canary", public.as_bytes(), cut.as_bytes(), &pem.as_bytes().repeat(40)];
    let refused = async |name: &str, content: &[u8], mode: u32, part: &str| {
        let place = Place::new();
        let path = place.put("key.pem", content);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        let lines = place.settings_refused(&[(name, "key.pem")]).await;
        assert_one(&lines, &format!(": {name}: {part}"));
        assert!(!lines[0].contains("canary") && !pem.lines().any(|line| lines[0].contains(line)), "{lines:?}");
    };
    for name in ["DOORWARD_JWT_KEY_FILE", "DOORWARD_JWT_ACCEPT_KEY_FILE"] {
        for content in wrong {
            refused(name, content, 0o600, "").await;
        }
        for mode in [0o660, 0o602] {
            refused(name, pem.as_bytes(), mode, "others may write the file").await;
        }
        for (path, part) in [("no-such.pem", "cannot be read"), ("/", "is not a file")] {
            assert_one(&Place::new().settings_refused(&[(name, path)]).await, &format!(": {name}: {part}"));
        }
    }
    let place = Place::new();
    let path = place.put("key.pem", pem.as_bytes());
    for mode in [0o400, 0o600, 0o640, 0o440] {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        let ended = place.run(&["check-config"], &[("DOORWARD_JWT_KEY_FILE", "key.pem")]).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{mode:o}");
    }
}

#[tokio::test]
async fn several_problems_are_told_at_once_one_line_each() {
    let settings = [
        ("JWT_SECRET", SHORT_SECRET),
        ("DOORWARD_BCRYPT_COST", "9"),
        ("DOORWARD_PING_SECONDS", "0"),
        ("DOORWARD_PASSWORD_LIST", "no-such-list.txt"),
        ("DOORWARD_PASWORD_MIN", "8"),
        ("ES_URL", "ftp://127.0.0.1:9200"),
    ];
    let place = Place::new();
    place.put(".env", "DOORWARD_DRAIN_SECONDS=0\nthis is no setting\n");
    let lines = place.settings_refused(&settings).await;
    for (name, _) in settings.into_iter().chain([("DOORWARD_DRAIN_SECONDS", ""), (".env", "")]) {
        let told = lines.iter().filter(|line| line.starts_with(&format!("doorward: {name}: "))).count();
        assert_eq!(told, 1, "{name}: {lines:?}");
    }
    assert_eq!(lines.len(), settings.len() + 2);
    assert!(!lines.concat().contains("canary"));
}

#[tokio::test]
async fn a_file_env_that_cannot_be_read_is_told_and_none_of_it_shown() {
    for content in
        ["JWT_SECRET canary-without-equals-sign\n", "JWT_SECRET=\"canary-that-never-ends\n", "\u{feff}\u{0}\n"]
    {
        let place = Place::new();
        place.put(".env", content);
        let lines = place.settings_refused(&[]).await;
        assert_one(&lines, ".env: ");
        assert!(!lines[0].contains("canary"), "{lines:?}");
    }
    let place = Place::new();
    std::fs::create_dir(place.folder.path().join(".env")).unwrap();
    assert_one(&place.settings_refused(&[]).await, ".env: ");
    let place = Place::new();
    place.put(".env", b"DOORWARD_LOG=\xff\xfe\n");
    assert_one(&place.settings_refused(&[]).await, ".env: ");
}

#[tokio::test]
async fn the_environment_wins_over_the_file_env_and_good_settings_are_good() {
    let place = Place::new();
    place.put(".env", "DOORWARD_DRAIN_SECONDS=0\nexport DOORWARD_LOG='debug' # a comment\n");
    let ended = place.run(&["check-config"], &[("DOORWARD_DRAIN_SECONDS", "5")]).await;
    assert_eq!((ended.code, ended.stdout.as_str(), ended.stderr.as_str()), (Some(0), "The settings are good.\n", ""));
    assert_eq!(place.files(), BTreeSet::new());
}

#[tokio::test]
async fn a_port_in_use_is_told_before_a_database_or_a_secret_is_made() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for setting in ["DOORWARD_LISTEN", "DOORWARD_METRICS_LISTEN"] {
        let place = Place::new();
        let lines = place.refused(&[(setting, &address)]).await;
        assert_one(&lines, &format!(": {setting}: cannot listen on {address}: "));
        assert_eq!(place.files(), files(["doorward.lock"]), "the lock is made to stay");
    }
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_named() {
    let place = Place::new();
    let file = place.put("data", "a file where the folder should be");
    assert_one(&place.refused(&[]).await, &format!("data folder {}", file.display()));

    let below = file.join("below");
    let lines = place.refused(&[("DOORWARD_DATA_DIR", below.to_str().unwrap())]).await;
    assert_one(&lines, &format!("data folder {}", below.display()));

    let place = Place::new();
    let ended = Process::run(Process::command_on_mount("ro", &place.data(), &[]), "").await;
    assert_one(&complaint(&ended), &format!("data folder {}", place.data().display()));
}

#[tokio::test]
async fn a_folder_that_another_process_serves_is_named_until_that_one_has_gone() {
    let place = Place::new();
    let first = Process::start(&place.data(), &[]).await;
    assert_one(&place.refused(&[]).await, &format!("data folder {}: another doorward", place.data().display()));
    TestClient::connect(first.address, &[]).await.register("alice").await;
    first.kill().await;
    Process::start(&place.data(), &[]).await;
}

#[tokio::test]
async fn r14_a_database_of_a_newer_schema_or_none_at_all_is_named_and_left_alone() {
    let place = Place::new();
    Process::start(&place.data(), &[]).await.kill().await;
    let database = place.data().join("doorward.db");
    let version = |change: &dyn Fn(i64) -> i64| {
        let sql = rusqlite::Connection::open(&database).unwrap();
        let known: i64 = sql.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        sql.pragma_update(None, "user_version", change(known)).unwrap();
    };
    version(&|known| known + 1);
    let lines = place.refused(&[]).await;
    assert_one(&lines, &format!("{}: the database has schema version", database.display()));
    version(&|known| known - 1);
    Process::start(&place.data(), &[]).await.kill().await;

    let place = Place::new();
    let notes = "not a database, but longer than the header of one: ".repeat(50);
    let path = place.put("data/doorward.db", &notes);
    assert_one(&place.refused(&[]).await, &path.display().to_string());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), notes);
    assert_eq!(place.files(), files(["doorward.db", "doorward.lock"]));

    let place = Place::new();
    std::fs::create_dir_all(place.data().join("doorward.db")).unwrap();
    assert_one(&place.refused(&[]).await, "doorward.db: cannot open the database");
}

#[tokio::test]
async fn a_damaged_secret_is_named_and_not_replaced() {
    let place = Place::new();
    let path = place.put("data/jwt.secret", "too short\n");
    let lines = place.refused(&[]).await;
    assert_one(&lines, &format!("secret file {}: is damaged", path.display()));
    assert!(!lines[0].contains("too short"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "too short\n");
}

#[tokio::test]
async fn s10_missing_secrets_are_made_once_for_the_owner_only_and_tokens_survive_a_restart() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let gateway = Process::start(&place.data(), &[]).await;
    let mut alice = TestClient::connect(gateway.address, &[]).await;
    alice.register("alice").await;
    for file in place.files() {
        let mode = std::fs::metadata(place.data().join(&file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    assert_eq!(std::fs::metadata(place.data()).unwrap().permissions().mode() & 0o777, 0o700);
    let secrets = || ["jwt.secret", "password.pepper"].map(|name| std::fs::read(place.data().join(name)).unwrap());
    let made = secrets();
    gateway.kill().await;

    let gateway = Process::start(&place.data(), &[]).await;
    assert_eq!(secrets(), made);
    let mut again = TestClient::connect(gateway.address, &[]).await;
    let signed_in = again.call("auth.authenticate", json!({"access_token": alice.token})).await.unwrap();
    assert_eq!(signed_in["user"]["username"], "alice");
    TestClient::connect(gateway.address, &[]).await.login("alice").await;
}

#[tokio::test]
async fn health_asks_the_running_gateway() {
    let place = Place::new();
    let gateway = Process::start(&place.data(), &[]).await;
    let address = gateway.address.to_string();
    let url = format!("http://{address}/readyz");
    let ready = |ended: &Ended| (ended.code, ended.stdout.clone()) == (Some(0), "ready\n".to_owned());
    assert!(ready(&place.run(&["health"], &[("DOORWARD_LISTEN", &address)]).await));
    assert!(ready(&place.run(&["health", "--url", &url], &[]).await));
    let missing = format!("http://{address}/nowhere");
    assert_one(&complaint(&place.run(&["health", "--url", &missing], &[]).await), "");
    assert_one(&complaint(&place.run(&["health", "--url", "https://a"], &[]).await), "http://");
    gateway.kill().await;
    assert_one(&complaint(&place.run(&["health", "--url", &url], &[]).await), &format!("no answer from {address}"));
}

/// What the system counts of a process: processor time, in ticks of 10 ms.
fn cpu_ticks(id: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    // Behind the name, which is in parentheses: utime and stime are the 14th and 15th field of all.
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn descriptors(id: u32) -> u64 {
    std::fs::read_dir(Path::new("/proc").join(id.to_string()).join("fd")).unwrap().count() as u64
}

#[tokio::test]
async fn r14_out_of_descriptors_nothing_spins_open_sockets_go_on_and_room_is_enough_to_recover() {
    let place = Place::new();
    let mut command =
        Process::command(&place.data(), &[("DOORWARD_LOG", "warn"), ("DOORWARD_HEAD_TIMEOUT_SECONDS", "300")]);
    command.stderr(Stdio::piped());
    let mut gateway = Process::spawn(command).await;
    let mut log = gateway.stderr();
    let mut alice = TestClient::connect(gateway.address, &[]).await;
    alice.register("alice").await;
    let limit = Some(descriptors(gateway.id()) + 10);
    let id = Pid::from_raw(i32::try_from(gateway.id()).unwrap());
    prlimit(id, Resource::Nofile, Rlimit { current: limit, maximum: limit }).unwrap();

    let mut idle = Vec::new();
    for _ in 0..30 {
        idle.push(TcpStream::connect(gateway.address).await.unwrap());
    }
    let mut refused = async |times: usize| {
        for _ in 0..times {
            let line = tokio::time::timeout(PATIENCE, log.next_line()).await.expect("it is told in time");
            let line = line.unwrap().unwrap();
            assert!(line.contains("cannot accept a connection"), "{line}");
        }
    };
    refused(1).await;
    let (begun, ticks) = (Instant::now(), cpu_ticks(gateway.id()));
    refused(10).await;
    let (took, ticks) = (begun.elapsed(), cpu_ticks(gateway.id()) - ticks);
    assert!(took >= Duration::from_millis(900), "it tried ten times within {took:?}");
    assert!(ticks <= 30, "it took {ticks} ticks of processor time in {took:?}");
    let patch = json!({"display_name": "Alice"});
    alice.call("users.update", json!({"username": "me", "patch": patch})).await.unwrap();

    idle.clear();
    let begun = Instant::now();
    TestClient::connect(gateway.address, &[]).await.login("alice").await;
    assert!(begun.elapsed() < bound(Duration::from_secs(5)), "it took {:?} to recover", begun.elapsed());
}
