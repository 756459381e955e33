//! Settings: the file `.env` to the letter, secrets from files, and what a value may be.

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::start::{Place, assert_one};
use crate::support::{Process, TestClient, lasting_address};

/// The claims of an access token, not verified.
fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

#[tokio::test]
async fn values_in_the_file_env_are_literal() {
    let place = Place::new();
    let secret = "a '$ecret' of ${HOME}, with \\n and more";
    let env = format!(
        "\u{feff}# a comment\r\n\r\nDOORWARD_TOKEN_ISSUER=pa$HOME$word#1 # the rest is a comment\r\n\
         DOORWARD_TOKEN_AUDIENCE=\"pa$word ${{HOME}} # \\$\"\r\nexport JWT_SECRET = \"{secret}\"\r\n"
    );
    place.put(".env", env);
    let gateway = Process::start(&place.data(), &[]).await;
    let mut alice = TestClient::connect(gateway.address, &[]).await;
    alice.register("alice").await;
    let claims = claims(&alice.token);
    assert_eq!((&claims["iss"], &claims["aud"]), (&json!("pa$HOME$word#1"), &json!("pa$word ${HOME} # \\$")));
    let mut validation = Validation::new(Algorithm::HS256);
    validation.validate_aud = false;
    let key = DecodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::decode::<Value>(&alice.token, &key, &validation).expect("the secret is to the letter");
}

#[tokio::test]
async fn what_is_wrong_in_the_file_env_is_told_with_its_line() {
    let cases: [(&[u8], &str); 9] = [
        (b"\n\nno canary equals sign\n", ".env: line 3: "),
        (b"JWT_SECRET='canary that never ends\n", ".env: line 1: "),
        (b"# one\nJWT_SECRET=\"canary that never ends\nDOORWARD_LOG=info\n", ".env: line 2: "),
        (b"DOORWARD_LOG='info' canary\n", ".env: line 1: "),
        (b"1CANARY=1\n", ".env: line 1: "),
        (b"=canary\n", ".env: line 1: "),
        (b"DOORWARD_LOG=info\nDOORWARD_LOG=\xffcanary\n", ".env: line 2: "),
        (
            b"\n\nDOORWARD_DRAIN_SECONDS=0\n",
            "DOORWARD_DRAIN_SECONDS: must be a whole number from 1 to 60 (.env, line 3)",
        ),
        (
            b"\nDOORWARD_DRAN_SECONDS=1\n",
            "DOORWARD_DRAN_SECONDS: is not a setting; .env.example lists them all (.env, line 2)",
        ),
    ];
    for (content, told) in cases {
        let place = Place::new();
        place.put(".env", content);
        let lines = place.settings_refused(&[]).await;
        assert_one(&lines, told);
        assert!(!lines[0].contains("canary"), "{lines:?}");
    }
}

#[tokio::test]
async fn an_empty_variable_does_not_hide_the_file_env() {
    let place = Place::new();
    place.put(".env", "DOORWARD_TOKEN_ISSUER=of-the-file\n");
    let gateway = Process::start(&place.data(), &[("DOORWARD_TOKEN_ISSUER", "")]).await;
    let mut alice = TestClient::connect(gateway.address, &[]).await;
    alice.register("alice").await;
    assert_eq!(claims(&alice.token)["iss"], "of-the-file");
}

#[tokio::test]
async fn a_name_of_this_machine_can_be_listened_on() {
    let place = Place::new();
    let [port, metrics] = [lasting_address(), lasting_address()].map(|address| format!("localhost:{}", address.port()));
    let settings = [("DOORWARD_LISTEN", &*port), ("DOORWARD_METRICS_LISTEN", &metrics)];
    let gateway = Process::start(&place.data(), &settings).await;
    assert!(gateway.address.ip().is_loopback() && gateway.metrics.ip().is_loopback());
    assert_eq!(gateway.ready().await, 200);
    let ended = place.run(&["health"], &settings).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "ready\n"), "{}", ended.stderr);
    for (name, value) in [
        ("DOORWARD_LISTEN", "no-such-machine.invalid:80"),
        ("DOORWARD_LISTEN", "8080"),
        ("DOORWARD_LISTEN", ":8080"),
        ("DOORWARD_LISTEN", "localhost"),
        ("DOORWARD_METRICS_LISTEN", "localhost:65536"),
    ] {
        let told = format!(": {name}: must be an address and port such as 127.0.0.1:");
        assert_one(&Place::new().settings_refused(&[(name, value)]).await, &told);
    }
}

#[tokio::test]
async fn the_data_folder_is_told_by_its_absolute_path() {
    let relative = [("DOORWARD_DATA_DIR", "data")];
    let place = Place::new();
    let told = place.data().display().to_string();
    assert_one(
        &place
            .run(&["admin", "promote", "alice"], &relative)
            .await
            .stderr
            .lines()
            .map(String::from)
            .collect::<Vec<_>>(),
        &format!("there are no users in {told}; see DOORWARD_DATA_DIR"),
    );
    let gateway = Process::start(&place.data(), &relative).await;
    assert_one(&place.refused(&relative).await, &format!("data folder {told}: another doorward"));
    gateway.kill().await;
    std::fs::write(place.data().join("jwt.secret"), "short").unwrap();
    assert_one(&place.refused(&relative).await, &format!("secret file {told}/jwt.secret"));
    std::fs::write(place.data().join("doorward.db"), "none".repeat(1000)).unwrap();
    std::fs::remove_file(place.data().join("doorward.db-wal")).unwrap();
    assert_one(&place.refused(&relative).await, &format!("store: {told}/doorward.db: "));
    let place = Place::new();
    place.put("data", "a file");
    assert_one(&place.refused(&relative).await, &format!("data folder {}: ", place.data().display()));
}

const SECRET: &str = "a secret that only this test knows, of a file";
const PEPPER: &str = "a pepper that only this test knows, of a file";

#[tokio::test]
async fn s10_secrets_come_from_files_and_one_newline_at_their_end_is_not_part_of_them() {
    let place = Place::new();
    let put = |name: &str, content: String| place.put(name, content).display().to_string();
    let gateway = Process::start(&place.data(), &[("JWT_SECRET", SECRET), ("DOORWARD_PASSWORD_PEPPER", PEPPER)]).await;
    let mut alice = TestClient::connect(gateway.address, &[]).await;
    alice.register("alice").await;
    gateway.kill().await;

    let (plain, unix, dos) =
        (put("plain", SECRET.to_owned()), put("unix", format!("{PEPPER}\n")), put("dos", format!("{SECRET}\r\n")));
    let (newline, pepper_newline) = (format!("{SECRET}\n"), format!("{PEPPER}\r\n"));
    let other = "another secret that only this test knows";
    let starts: [&[(&str, &str)]; 4] = [
        &[("JWT_SECRET_FILE", &plain), ("DOORWARD_PASSWORD_PEPPER_FILE", &unix)],
        &[("JWT_SECRET_FILE", &dos), ("DOORWARD_PASSWORD_PEPPER", &pepper_newline)],
        &[("JWT_SECRET", &newline), ("DOORWARD_PASSWORD_PEPPER_FILE", &unix)],
        &[("JWT_SECRET", other), ("DOORWARD_JWT_ACCEPT_SECRET_FILE", &dos), ("DOORWARD_PASSWORD_PEPPER_FILE", &unix)],
    ];
    for settings in starts {
        let gateway = Process::start(&place.data(), settings).await;
        let mut again = TestClient::connect(gateway.address, &[]).await;
        let signed_in = again.call("auth.authenticate", json!({"access_token": alice.token})).await;
        assert!(signed_in.is_ok(), "{settings:?}: {signed_in:?}");
        TestClient::connect(gateway.address, &[]).await.login("alice").await;
        gateway.kill().await;
    }
    // Two at its end are one of the value and one that is not.
    let two = put("two", format!("{SECRET}\n\n"));
    let gateway =
        Process::start(&place.data(), &[("JWT_SECRET_FILE", &two), ("DOORWARD_PASSWORD_PEPPER", PEPPER)]).await;
    let mut again = TestClient::connect(gateway.address, &[]).await;
    let refused = again.call("auth.authenticate", json!({"access_token": alice.token})).await.unwrap_err();
    assert_eq!(refused.code, 1003);
}

#[tokio::test]
async fn s10_a_secret_file_that_is_none_is_refused_in_a_line_that_names_the_setting() {
    let names = [
        "JWT_SECRET_FILE",
        "DOORWARD_JWT_ACCEPT_SECRET_FILE",
        "DOORWARD_PASSWORD_PEPPER_FILE",
        "DOORWARD_ES_API_KEY_FILE",
        "DOORWARD_ES_PASSWORD_FILE",
    ];
    for name in names {
        // A password of the cluster wants a name beside it.
        let user = if name == "DOORWARD_ES_PASSWORD_FILE" { "gateway" } else { "" };
        let place = Place::new();
        place.put("long", "canary".repeat(20_000));
        place.put("binary", b"\xff\xfecanary");
        place.put("empty", "\n");
        for (value, told) in [
            ("nowhere", "cannot be read: "),
            ("/", "is not a file"),
            ("long", "holds more than "),
            ("binary", "is not UTF-8"),
            ("empty", "is empty"),
        ] {
            let lines = place.settings_refused(&[(name, value), ("DOORWARD_ES_USERNAME", user)]).await;
            assert_one(&lines, &format!("doorward: {name}: {told}"));
            assert!(!lines[0].contains("canary"), "{lines:?}");
        }
        let variable = name.strip_suffix("_FILE").unwrap();
        let secret = "s".repeat(40);
        place.put("good", &secret);
        let both = [(name, "good"), (variable, &*secret), ("DOORWARD_ES_USERNAME", user)];
        assert_one(&place.settings_refused(&both).await, &format!("{name}: cannot be set together with {variable}"));
    }
    let place = Place::new();
    place.put("short", "a short canary\n");
    let lines = place.settings_refused(&[("JWT_SECRET_FILE", "short")]).await;
    assert_one(&lines, "JWT_SECRET_FILE: must have at least 32 bytes");
    for unknown in ["DOORWARD_LISTEN_FILE", "DOORWARD_JWT_SECRET_FILE", "ES_URL_FILE", "DOORWARD_ES_USERNAME_FILE"] {
        place.put("good", SECRET);
        let lines = place.settings_refused(&[(unknown, "good")]).await;
        assert_one(&lines, &format!("{unknown}: is not a setting"));
    }
}

#[tokio::test]
async fn s10_a_mounted_secret_that_everybody_may_read_is_warned_of_and_one_that_others_may_write_is_refused() {
    let key = SigningKey::from_bytes(&[7; 32]).to_pkcs8_pem(LineEnding::LF).unwrap();
    for name in ["JWT_SECRET_FILE", "DOORWARD_JWT_KEY_FILE"] {
        let place = Place::new();
        let path = place.put("secret", if name.contains("KEY") { key.as_str() } else { SECRET });
        let set = |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        for (mode, warned) in
            [(0o400, false), (0o600, false), (0o440, false), (0o640, false), (0o444, true), (0o644, true)]
        {
            set(mode);
            let ended = place.run(&["check-config"], &[(name, "secret")]).await;
            assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "The settings are good.\n"), "{mode:o}");
            let told: Vec<String> = ended.stderr.lines().map(String::from).collect();
            match warned {
                true => assert_one(&told, &format!("doorward: {name}: everybody on this machine may read the file; ")),
                false => assert_eq!(told, Vec::<String>::new(), "{mode:o}"),
            }
            assert!(!warned || told[0].contains("0440"), "it says what to set: {told:?}");
        }
        for mode in [0o620, 0o602, 0o666, 0o660] {
            set(mode);
            let told = format!("doorward: {name}: others may write the file; chmod 600 it");
            assert_one(&place.settings_refused(&[(name, "secret")]).await, &told);
        }
        set(0o444);
        let mut command = Process::command(&place.data(), &[(name, "secret"), ("DOORWARD_LOG", "warn")]);
        command.stderr(Stdio::piped());
        let mut gateway = Process::spawn(command).await;
        let line = gateway.stderr().next_line().await.unwrap().unwrap();
        assert!(line.contains("WARN") && line.contains(name), "{line}");
        gateway.signal(Signal::TERM);
        assert!(gateway.wait().await.success());
    }
}
