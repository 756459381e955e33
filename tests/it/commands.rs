//! The admin commands, beside a running gateway and without one.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Ended, Home, PASSWORD, Process, TestClient, bound};

/// How soon a running gateway must have noticed.
const NOTICED: Duration = Duration::from_secs(1);

async fn admin(home: &Home, args: &[&str], input: &str) -> Ended {
    let mut command = home.command(&[]);
    command.arg("admin").args(args);
    Process::run(command, input).await
}

fn assert_done(ended: &Ended, line: &str) {
    // Said when the folder is new: it may be the wrong one.
    let said = ended.said();
    let said = said.lines().find(|line| !line.starts_with("doorward: these are the first users in "));
    assert_eq!((ended.code, ended.stdout.trim_end(), said), (Some(0), line, None));
}

fn assert_refused(ended: &Ended, part: &str) {
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{}", ended.stderr);
    let one = ended.stderr.lines().count() == 1 && ended.stderr.starts_with("doorward: ");
    assert!(one && ended.stderr.contains(part), "not one line with {part:?}: {}", ended.stderr);
}

#[tokio::test]
async fn a_promoted_users_socket_is_told_and_closed_within_a_second_and_they_come_back_as_admin() {
    let home = Home::of_this_run();
    let gateway = home.start(&[]).await;
    let mut alice = TestClient::connect(gateway.address, &[]).await;
    alice.register("alice").await;
    let mut bob = TestClient::connect(gateway.address, &[]).await;
    bob.register("bob").await;
    let refused = alice.call("users.deactivate", json!({"username": "bob"})).await.unwrap_err();
    assert_eq!(refused.code, 1101);

    assert_done(&admin(&home, &["promote", "Alice"], "").await, "alice is an admin now.");
    let promoted = Instant::now();
    assert_eq!(alice.notification("auth.revoked").await, json!({"reason": "role_changed"}));
    assert!(promoted.elapsed() < bound(NOTICED), "{:?}", promoted.elapsed());
    assert_eq!(alice.closed().await.0, 4503);
    let mut stale = TestClient::connect(gateway.address, &[]).await;
    let refused = stale.call("auth.authenticate", json!({"access_token": alice.token})).await.unwrap_err();
    assert_eq!(refused.code, 1004);

    let mut alice = TestClient::connect(gateway.address, &[]).await;
    assert_eq!(alice.login("alice").await["user"]["role"], "admin");
    let seen = alice.call("users.get", json!({"username": "me"})).await.unwrap();
    let last = &seen["user"]["last_change"];
    assert_eq!((&last["kind"], &last["actor"]), (&json!("role_changed"), &json!(null)));
    alice.call("users.deactivate", json!({"username": "bob"})).await.unwrap();
    assert_eq!(bob.closed().await.0, 4504);

    assert_done(&admin(&home, &["promote", "alice"], "").await, "alice is an admin now.");
    assert_eq!(alice.call("users.get", json!({"username": "me"})).await.unwrap()["user"]["rev"], 2);
}

#[tokio::test]
async fn a_new_admin_can_log_in_at_once_whether_the_gateway_runs_or_not() {
    let home = Home::of_this_run();
    let create = async |name: &'static str, input: String| {
        let email = format!("{name}@example.com");
        admin(&home, &["create", name, "--email", &email, "--password-stdin"], &input).await
    };
    let first = create("first", format!("{PASSWORD}\n")).await;
    assert_eq!((first.code, first.stdout.as_str()), (Some(0), "first is an admin now.\n"));
    let told = match home.is_elastic() {
        true => String::new(),
        false => format!("doorward: these are the first users in {}\n", home.data().display()),
    };
    assert_eq!(first.said(), told, "a folder that was not meant is noticed");
    let gateway = home.start(&[]).await;
    // Only the first line is the password, whatever ends it.
    for (name, input) in [("second", format!("{PASSWORD}\r\nnot this\n")), ("third", PASSWORD.to_owned())] {
        let mut early = TestClient::connect(gateway.address, &[]).await;
        let unknown = early.call("auth.login", json!({"login": name, "password": PASSWORD})).await.unwrap_err();
        assert_eq!(unknown.code, 1005);
        assert_done(&create(name, input).await, &format!("{name} is an admin now."));
    }
    for name in ["first", "second", "third"] {
        let mut socket = TestClient::connect(gateway.address, &[]).await;
        assert_eq!(socket.login(name).await["user"]["role"], "admin");
        let list = socket.call("users.list", json!({"count": "exact", "filter": {"role": {"eq": "admin"}}})).await;
        assert_eq!(list.unwrap()["count"], 3);
    }
}

#[tokio::test]
async fn what_an_admin_command_refuses_is_told_in_one_line() {
    let home = Home::of_this_run();
    let gateway = home.start(&[]).await;
    let mut alice = TestClient::connect(gateway.address, &[]).await;
    alice.register("alice").await;
    let cases: [(&[&str], &str, &str); 12] = [
        (&["promote", "nobody"], "", "no such user"),
        (&["promote", "no spaces"], "", "the username may only"),
        (&["create", "ALICE", "--email", "other@example.com"], PASSWORD, "username is taken"),
        (&["create", "other", "--email", "Alice@Example.com"], PASSWORD, "address is taken"),
        (&["create", "al", "--email", "other@example.com"], PASSWORD, "the username must"),
        (&["create", "root", "--email", "other@example.com"], PASSWORD, "the username is a reserved name"),
        (&["create", "other", "--email", "nowhere"], PASSWORD, "the e-mail address must"),
        (&["create", "other", "--email", "other@example.com"], "short", "the password must have at least 8"),
        (&["create", "other", "--email", "other@example.com"], "password1", "the password is"),
        (&["create", "other", "--email", "other@example.com"], "", "the password must"),
        (&["create", "otherotherother", "--email", "other@example.com"], "OtherOtherOther", "the user's own name"),
        (&["create", "other", "--email", "other@example.com"], "\u{0}\n", "the password must"),
    ];
    for (args, input, part) in cases {
        let mut args = args.to_vec();
        if args[0] == "create" {
            args.push("--password-stdin");
        }
        let ended = admin(&home, &args, input).await;
        assert_refused(&ended, part);
        assert!(input.len() < 5 || !ended.stderr.contains(input), "{}", ended.stderr);
    }
    // Without a terminal nobody can be asked.
    let ended = admin(&home, &["create", "other", "--email", "other@example.com"], PASSWORD).await;
    assert_refused(&ended, "--password-stdin");

    let list = alice.call("users.list", json!({"count": "exact"})).await.unwrap();
    assert_eq!((&list["count"], &list["users"][0]["role"]), (&json!(1), &json!("user")));
}

#[tokio::test]
async fn a_user_who_cannot_log_in_is_not_promoted() {
    let home = Home::of_this_run();
    let gateway = home.start(&[]).await;
    TestClient::connect(gateway.address, &[]).await.register("alice").await;
    let create = ["create", "keeper", "--email", "keeper@example.com", "--password-stdin"];
    assert_done(&admin(&home, &create, PASSWORD).await, "keeper is an admin now.");
    let mut keeper = TestClient::connect(gateway.address, &[]).await;
    keeper.login("keeper").await;
    keeper.call("users.deactivate", json!({"username": "alice"})).await.unwrap();
    assert_refused(&admin(&home, &["promote", "alice"], "").await, "alice is deactivated");
    keeper.call("users.erase", json!({"username": "alice"})).await.unwrap();
    assert_refused(&admin(&home, &["promote", "alice"], "").await, "alice is erased");
}
