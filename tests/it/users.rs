//! `users.*` as callers meet it: one account's life, and the lists of many.

use serde_json::{Value, json};

use crate::support::{Failure, PASSWORD, TestClient, TestGateway};

const OTHER_PASSWORD: &str = "another horse 8 battery";

async fn get(client: &mut TestClient, username: &str) -> Value {
    client.call("users.get", json!({"username": username})).await.unwrap()["user"].clone()
}

async fn update(client: &mut TestClient, patch: Value) -> Result<Value, Failure> {
    client.call("users.update", json!({"username": "me", "patch": patch})).await.map(|result| result["user"].clone())
}

/// The usernames in a list or the hits of a search.
fn names(result: &Value) -> Vec<&str> {
    let (users, hits) = (result["users"].as_array(), result["hits"].as_array());
    let users = users.into_iter().flatten().chain(hits.into_iter().flatten().map(|hit| &hit["user"]));
    users.map(|user| user["username"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn an_unknown_name_is_not_found() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("alice").await;
    let error = alice.call("users.get", json!({"username": "nobody"})).await.unwrap_err();
    assert_eq!(error.code, 1201);
}

#[tokio::test]
async fn a_name_is_found_in_any_case_and_kept_as_it_was_registered() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("Alice").await;
    for name in ["alice", "ALICE", "Alice", "me"] {
        assert_eq!(get(&mut alice, name).await["username"], "Alice");
    }
}

#[tokio::test]
async fn many_users_are_read_at_once_and_missing_names_are_told() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("alice").await;
    gateway.logged_in("bob").await;
    let asked = json!({"usernames": ["bob", "nobody", "me", "BOB"]});
    let many = alice.call("users.get_many", asked).await.unwrap();
    assert_eq!((names(&many), &many["missing"]), (vec!["bob", "alice"], &json!(["nobody"])));
    let hundred: Vec<String> = (0..101).map(|number| format!("user{number}")).collect();
    assert!(alice.call("users.get_many", json!({"usernames": hundred[..100]})).await.is_ok());
    assert_eq!(alice.call("users.get_many", json!({"usernames": hundred})).await.unwrap_err().code, -32602);
}

#[tokio::test]
async fn a_patch_sets_clears_and_leaves() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("alice").await;
    let whole = json!({"display_name": "Zoe\u{308}", "bio": "one\ntwo", "avatar_url": "https://example.com/a.png",
        "attributes": {"theme": "dark", "n": [1, {"x": null}]}});
    let user = update(&mut alice, whole).await.unwrap();
    assert_eq!(
        (&user["display_name"], &user["bio"]),
        (&json!("Zo\u{eb}"), &json!("one\ntwo")),
        "text is brought to NFC"
    );
    assert_eq!(user["attributes"], json!({"theme": "dark", "n": [1, {"x": null}]}));
    assert_eq!((&user["rev"], &user["last_change"]["kind"]), (&json!(2), &json!("updated")));
    assert_eq!(user["last_change"]["fields"], json!(["display_name", "bio", "avatar_url", "attributes"]));

    let user = update(&mut alice, json!({"attributes": {"n": 2}})).await.unwrap();
    assert_eq!((&user["attributes"], &user["bio"]), (&json!({"n": 2}), &json!("one\ntwo")));
    let cleared = json!({"display_name": null, "bio": null, "avatar_url": null, "attributes": null});
    let user = update(&mut alice, cleared).await.unwrap();
    let now = (&user["display_name"], &user["bio"], &user["avatar_url"], &user["attributes"]);
    assert_eq!(now, (&json!("alice"), &json!(""), &Value::Null, &json!({})));
    assert_eq!(update(&mut alice, json!({"email": null})).await.unwrap_err().code, -32602);
    assert_eq!(get(&mut alice, "me").await["rev"], 4);
}

#[tokio::test]
async fn a_patch_that_changes_nothing_makes_no_revision() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("alice").await;
    let before = get(&mut alice, "me").await;
    for patch in [json!({}), json!({"bio": ""}), json!({"display_name": null, "avatar_url": null, "attributes": {}})] {
        assert_eq!(update(&mut alice, patch).await.unwrap(), before);
    }
    // Not even a wrong revision passes because nothing would change.
    let params = json!({"username": "me", "patch": {}, "if_rev": 2});
    assert_eq!(alice.call("users.update", params).await.unwrap_err().code, 1203);
}

#[tokio::test]
async fn every_refused_member_of_a_patch_is_told_and_none_is_applied() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("alice").await;
    let patch = json!({"display_name": "x".repeat(65), "bio": "\u{1b}[31m", "avatar_url": "javascript:alert(1)",
        "attributes": {"big": "x".repeat(5000)}, "email": "nowhere"});
    let failure = update(&mut alice, patch).await.unwrap_err();
    let paths: Vec<_> = failure.data["fields"].as_array().unwrap().iter().map(|field| field["path"].clone()).collect();
    let names = ["display_name", "bio", "avatar_url", "attributes", "email"].map(|name| format!("patch.{name}"));
    assert_eq!((failure.code, json!(paths)), (-32602, json!(names)));
    for (good, bad) in [
        (json!({"bio": "é".repeat(500)}), json!({"bio": "é".repeat(501)})),
        (json!({"display_name": "é".repeat(64)}), json!({"display_name": "   "})),
        (json!({"attributes": {"k": "x".repeat(4088)}}), json!({"attributes": {"k": "x".repeat(4089)}})),
        (json!({"avatar_url": "http://example.com"}), json!({"avatar_url": "//example.com"})),
    ] {
        update(&mut alice, good).await.unwrap();
        assert_eq!(update(&mut alice, bad.clone()).await.unwrap_err().code, -32602, "{bad}");
    }
    assert_eq!(get(&mut alice, "me").await["rev"], 5);
}

#[tokio::test]
async fn a_change_may_ask_for_the_revision_that_it_was_made_for() {
    let gateway = TestGateway::start().await;
    let mut root = gateway.admin("keeper").await;
    gateway.logged_in("bob").await;
    let mut rev = 1;
    for (method, mut params) in [
        ("users.update", json!({"patch": {"bio": "new"}})),
        ("users.set_role", json!({"role": "admin"})),
        ("users.deactivate", json!({})),
        ("users.reactivate", json!({})),
    ] {
        params["username"] = json!("bob");
        for wrong in [rev - 1, rev + 1] {
            params["if_rev"] = json!(wrong);
            let failure = root.call(method, params.clone()).await.unwrap_err();
            assert_eq!((failure.code, &failure.data["current_rev"]), (1203, &json!(rev)), "{method}");
            assert_eq!((&failure.data["kind"], &failure.data["retryable"]), (&json!("rev_conflict"), &json!(false)));
        }
        params["if_rev"] = json!(rev);
        rev += 1;
        assert_eq!(root.call(method, params).await.unwrap()["user"]["rev"], rev, "{method}");
    }
}

#[tokio::test]
async fn concurrent_changes_of_one_user_are_all_applied() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("alice").await;
    let call = |number: usize| {
        let params = json!({"username": "me", "patch": {"bio": format!("bio {number}")}});
        json!({"jsonrpc": "2.0", "id": number, "method": "users.update", "params": params})
    };
    let batch = Value::Array((0..50).map(call).collect());
    let replies: Value = serde_json::from_str(&alice.exchange(batch.to_string()).await).unwrap();
    let mut revs: Vec<_> =
        replies.as_array().unwrap().iter().map(|r| r["result"]["user"]["rev"].as_u64().unwrap()).collect();
    revs.sort_unstable();
    assert_eq!(revs, (2..=51).collect::<Vec<_>>());
}

#[tokio::test]
async fn s15_users_change_their_own_address_with_their_password_only() {
    let gateway = TestGateway::start().await;
    let mut root = gateway.admin("keeper").await;
    let mut alice = gateway.logged_in("alice").await;
    let params = |password: Value| json!({"username": "me", "patch": {"email": "new@example.com", "bio": "moved"}, "current_password": password});
    let failure = alice.call("users.update", params(Value::Null)).await.unwrap_err();
    assert_eq!((failure.code, &failure.data["fields"][0]["path"]), (-32602, &json!("current_password")));
    assert_eq!(alice.call("users.update", params(json!("a wrong one for alice"))).await.unwrap_err().code, 1005);
    assert_eq!(get(&mut alice, "me").await["rev"], 1);
    let user = alice.call("users.update", params(json!(PASSWORD))).await.unwrap()["user"].clone();
    assert_eq!((&user["email"], &user["rev"]), (&json!("new@example.com"), &json!(2)));
    // The old address is free, the new one taken; admins need no password for others, but do for themselves.
    let taken = json!({"username": "keeper", "patch": {"email": "NEW@example.com"}, "current_password": PASSWORD});
    assert_eq!(root.call("users.update", taken).await.unwrap_err().code, 1202);
    let own = json!({"username": "keeper", "patch": {"email": "alice@example.com"}});
    assert_eq!(root.call("users.update", own).await.unwrap_err().code, -32602);
    let others = json!({"username": "alice", "patch": {"email": "third@example.com"}});
    assert_eq!(root.call("users.update", others).await.unwrap()["user"]["email"], "third@example.com");
    let found = root.call("users.find_by_email", json!({"email": "THIRD@example.com"})).await.unwrap();
    assert_eq!(found["user"]["username"], "alice");
    let gone = root.call("users.find_by_email", json!({"email": "alice@example.com"})).await;
    assert_eq!(gone.unwrap_err().code, 1201);
}

#[tokio::test]
async fn a_deactivated_user_is_told_and_closed() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("alice").await;
    let mut root = gateway.admin("keeper").await;
    let done = root.call("users.deactivate", json!({"username": "alice", "reason": "left"})).await.unwrap();
    assert_eq!((&done["sockets_closed"], &done["user"]["status"]), (&json!(1), &json!("deactivated")));
    assert_eq!(done["user"]["last_change"]["reason"], "left");
    assert_eq!(alice.notification("auth.revoked").await, json!({"reason": "account_deactivated"}));
    assert_eq!(alice.closed().await.0, 4504);
}

#[tokio::test]
async fn s14_a_deactivated_user_comes_back_with_a_new_login_only() {
    let gateway = TestGateway::start().await;
    let mut root = gateway.admin("keeper").await;
    let mut alice = gateway.logged_in("alice").await;
    let token = alice.token.clone();
    // The socket that asks gets its reply before it is told and closed.
    let done = alice.call("users.deactivate", json!({"username": "me"})).await.unwrap();
    assert_eq!((&done["sockets_closed"], &done["sessions_ended"]), (&json!(1), &json!(1)));
    assert_eq!(alice.notification("auth.revoked").await, json!({"reason": "account_deactivated"}));
    assert_eq!(alice.closed().await.0, 4504);
    let login = json!({"login": "alice", "password": PASSWORD});
    assert_eq!(gateway.call(None, "auth.login", login.clone()).await.unwrap_err().code, 1005);
    let list = r#"{"jsonrpc":"2.0","id":1,"method":"users.list"}"#;
    assert_eq!(gateway.post(Some(&token), list).await.0, 401);
    // She is still there, for others to see, and her name and address stay taken.
    assert_eq!(get(&mut root, "alice").await["status"], "deactivated");

    let again = root.call("users.deactivate", json!({"username": "alice"})).await.unwrap();
    assert_eq!((&again["user"]["rev"], &again["sockets_closed"]), (&json!(2), &json!(0)));
    let back = root.call("users.reactivate", json!({"username": "alice"})).await.unwrap();
    assert_eq!((&back["user"]["status"], &back["user"]["rev"]), (&json!("active"), &json!(3)));
    let (status, body) = gateway.post(Some(&token), list).await;
    assert!(status == 401 && body.contains("1004"), "the token of before is dead: {body}");
    gateway.call(None, "auth.login", login).await.unwrap();
}

#[tokio::test]
async fn an_erased_user_leaves_the_name_and_nothing_else() {
    let gateway = TestGateway::start().await;
    let mut root = gateway.admin("keeper").await;
    let mut alice = gateway.logged_in("alice").await;
    update(&mut alice, json!({"display_name": "Secret", "bio": "Secret", "attributes": {"secret": 1}})).await.unwrap();
    assert_eq!(root.call("users.erase", json!({"username": "alice"})).await.unwrap(), json!({}));
    assert_eq!(alice.notification("auth.revoked").await, json!({"reason": "account_erased"}));
    assert_eq!(alice.closed().await.0, 4504);
    let user = get(&mut root, "alice").await;
    assert!(!user.to_string().contains("ecret") && !user.to_string().contains("@"), "{user}");
    assert_eq!(
        (&user["status"], &user["email"], &user["last_change"]["kind"]),
        (&json!("erased"), &Value::Null, &json!("erased"))
    );
    for (method, params) in [
        ("users.update", json!({"username": "alice", "patch": {"bio": "x"}})),
        ("users.deactivate", json!({"username": "alice"})),
        ("users.reactivate", json!({"username": "alice"})),
        ("users.set_role", json!({"username": "alice", "role": "admin"})),
        ("users.set_password", json!({"username": "alice", "new_password": OTHER_PASSWORD})),
    ] {
        assert_eq!(root.call(method, params).await.unwrap_err().code, 1201, "{method}");
    }
    // Once more, for what may be left; no revision is made of it.
    assert_eq!(root.call("users.erase", json!({"username": "alice"})).await.unwrap(), json!({}));
    assert_eq!(get(&mut root, "alice").await["rev"], user["rev"]);
    // The name is never given again; the address is free.
    let register = |username: &str| json!({"username": username, "email": "alice@example.com", "password": PASSWORD});
    assert_eq!(gateway.call(None, "auth.register", register("ALICE")).await.unwrap_err().code, 1202);
    gateway.call(None, "auth.register", register("alice2")).await.unwrap();
    let found = root.call("users.search", json!({"text": "secret"})).await.unwrap();
    assert_eq!(found["count"], 0);
}

#[tokio::test]
async fn a05_the_last_active_admin_stays() {
    let gateway = TestGateway::start().await;
    let mut root = gateway.admin("keeper").await;
    let calls = [
        ("users.deactivate", json!({"username": "me"})),
        ("users.set_role", json!({"username": "me", "role": "user"})),
        ("users.erase", json!({"username": "keeper"})),
    ];
    for (method, params) in &calls {
        let failure = root.call(method, params.clone()).await.unwrap_err();
        assert_eq!((failure.code, &failure.data["kind"]), (1102, &json!("last_admin")), "{method}");
    }
    // A deactivated admin is no second one; an active one is.
    let second = json!({"username": "second", "email": "second@example.com", "password": PASSWORD, "role": "admin"});
    assert_eq!(root.call("users.create", second).await.unwrap()["user"]["role"], "admin");
    root.call("users.deactivate", json!({"username": "second"})).await.unwrap();
    assert_eq!(root.call("users.erase", json!({"username": "me"})).await.unwrap_err().code, 1102);
    root.call("users.reactivate", json!({"username": "second"})).await.unwrap();
    root.call("users.set_role", json!({"username": "me", "role": "user"})).await.unwrap();
}

#[tokio::test]
async fn s14_another_role_ends_the_sockets_that_had_the_former() {
    let gateway = TestGateway::start().await;
    let mut root = gateway.admin("keeper").await;
    let mut alice = gateway.logged_in("alice").await;
    let user = root.call("users.set_role", json!({"username": "alice", "role": "admin"})).await.unwrap();
    assert_eq!(
        (&user["user"]["role"], &user["user"]["last_change"]["kind"]),
        (&json!("admin"), &json!("role_changed"))
    );
    assert_eq!(alice.notification("auth.revoked").await, json!({"reason": "role_changed"}));
    assert_eq!(alice.closed().await, (4503, "role_changed".to_owned()));

    // An admin who steps down is answered first, and then closed like everyone else.
    let mut alice = gateway.socket().await;
    alice.login("alice").await;
    let call =
        json!({"jsonrpc": "2.0", "id": 7, "method": "users.set_role", "params": {"username": "me", "role": "user"}});
    let reply: Value = serde_json::from_str(&alice.exchange(call.to_string()).await).unwrap();
    assert_eq!(reply["result"]["user"]["role"], "user", "{reply}");
    assert_eq!(alice.notification("auth.revoked").await, json!({"reason": "role_changed"}));
    assert_eq!(alice.closed().await.0, 4503);
    // The same role once more is no change and closes nobody.
    let mut alice = gateway.socket().await;
    alice.login("alice").await;
    root.call("users.set_role", json!({"username": "alice", "role": "user"})).await.unwrap();
    assert_eq!(get(&mut alice, "me").await["rev"], 3);
}

#[tokio::test]
async fn s14_a_set_password_ends_every_login_of_the_user() {
    let gateway = TestGateway::start().await;
    let mut root = gateway.admin("keeper").await;
    let mut first = gateway.logged_in("alice").await;
    let mut second = gateway.socket().await;
    second.login("alice").await;
    let params = json!({"username": "alice", "new_password": OTHER_PASSWORD});
    assert_eq!(root.call("users.set_password", params).await.unwrap(), json!({"sessions_ended": 2}));
    for alice in [&mut first, &mut second] {
        assert_eq!(alice.notification("auth.revoked").await, json!({"reason": "session_ended"}));
        assert_eq!(alice.closed().await.0, 4503);
    }
    let log_in = async |password: &str| {
        let outcome = gateway.call(None, "auth.login", json!({"login": "alice", "password": password})).await;
        outcome.map(|_| ()).map_err(|failure| failure.code)
    };
    assert_eq!((log_in(PASSWORD).await, log_in(OTHER_PASSWORD).await), (Err(1005), Ok(())));
    let weak = json!({"username": "alice", "new_password": "password1"});
    let failure = root.call("users.set_password", weak).await.unwrap_err();
    assert_eq!((failure.code, &failure.data["fields"][0]["path"]), (1205, &json!("new_password")));
    let user = get(&mut root, "alice").await;
    assert_eq!((&user["rev"], &user["last_change"]["fields"]), (&json!(2), &json!(["password"])));
}

#[tokio::test]
async fn pages_give_everybody_once_and_a_count_is_exact() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("alice").await;
    for number in 0..11 {
        gateway.logged_in(&format!("user{number:02}")).await;
    }
    for sort in ["username", "-username", "display_name", "-created_at", "updated_at"] {
        let (mut seen, mut cursor, mut pages) = (Vec::new(), Value::Null, 0);
        loop {
            let params = json!({"sort": sort, "limit": 5, "cursor": cursor, "count": "exact"});
            let page = alice.call("users.list", params).await.unwrap();
            assert_eq!(page["count"], 12);
            assert!(page["position"].is_string());
            seen.extend(names(&page).into_iter().map(str::to_owned));
            pages += 1;
            cursor = page["next_cursor"].clone();
            if cursor.is_null() {
                break;
            }
        }
        assert_eq!((seen.len(), pages), (12, 3), "{sort}");
        if sort.ends_with("name") {
            let mut sorted = seen.clone();
            sorted.sort();
            if sort.starts_with('-') {
                sorted.reverse();
            }
            assert_eq!(seen, sorted, "{sort}");
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 12, "{sort}");
    }
    let page = alice.call("users.list", json!({})).await.unwrap();
    assert_eq!((names(&page).len(), page.get("count")), (12, None));
    for limit in [json!(0), json!(201), json!(-1), json!("5"), json!(1.5)] {
        assert_eq!(alice.call("users.list", json!({"limit": limit})).await.unwrap_err().code, -32602, "{limit}");
    }
}

#[tokio::test]
async fn a_list_by_names_that_grow_by_folding_is_paged_to_its_end() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("alice").await;
    // U+FDFA, the character that folds to the longest text: eighteen others.
    let longest = json!({"display_name": "\u{fdfa}".repeat(64)});
    update(&mut alice, longest.clone()).await.unwrap();
    for name in ["bob", "carol"] {
        update(&mut gateway.logged_in(name).await, longest.clone()).await.unwrap();
    }
    let (mut seen, mut cursor) = (Vec::new(), Value::Null);
    loop {
        let params = json!({"sort": "display_name", "limit": 1, "cursor": cursor});
        let page = alice.call("users.list", params).await.unwrap();
        seen.extend(names(&page).into_iter().map(str::to_owned));
        cursor = page["next_cursor"].clone();
        if cursor.is_null() {
            break;
        }
        assert!(cursor.as_str().unwrap().len() > 2048, "it shows nothing: {cursor}");
    }
    assert_eq!(seen, ["alice", "bob", "carol"]);
}

#[tokio::test]
async fn a_cursor_is_good_for_its_own_list_and_rights_only() {
    let gateway = TestGateway::start().await;
    let mut root = gateway.admin("keeper").await;
    let mut alice = gateway.logged_in("alice").await;
    gateway.logged_in("alina").await;
    let list = json!({"limit": 1, "sort": "-username", "filter": {"username": {"prefix": "ali"}}});
    let search = json!({"limit": 1, "text": "ali"});
    let list_cursor = alice.call("users.list", list.clone()).await.unwrap()["next_cursor"].clone();
    let search_cursor = alice.call("users.search", search.clone()).await.unwrap()["next_cursor"].clone();
    assert!(list_cursor.is_string() && search_cursor.is_string());
    let with = |params: &Value, name: &str, value: Value| {
        let mut params = params.clone();
        params[name] = value;
        params
    };
    let of_list = with(&list, "cursor", list_cursor.clone());
    let of_search = with(&search, "cursor", search_cursor.clone());
    assert_eq!(names(&alice.call("users.list", of_list.clone()).await.unwrap()), ["alice"]);
    assert_eq!(names(&alice.call("users.search", of_search.clone()).await.unwrap()).len(), 1);
    // Another page size is the same list.
    alice.call("users.list", with(&of_list, "limit", json!(7))).await.unwrap();

    let mut text = list_cursor.as_str().unwrap().to_owned();
    let last = if text.pop() == Some('A') { 'B' } else { 'A' };
    text.insert(text.len() / 2, last);
    let refused = [
        ("users.list", with(&of_list, "cursor", json!(text))),
        ("users.list", with(&of_list, "cursor", json!(""))),
        ("users.list", with(&of_list, "cursor", json!("ü"))),
        ("users.list", with(&of_list, "cursor", json!("A".repeat(3000)))),
        ("users.list", with(&of_list, "cursor", search_cursor)),
        ("users.list", with(&of_list, "sort", json!("username"))),
        ("users.list", with(&of_list, "filter", json!({"username": {"prefix": "al"}}))),
        ("users.list", with(&of_list, "filter", Value::Null)),
        ("users.search", with(&of_search, "text", json!("alic"))),
        ("users.search", with(&of_search, "fuzzy", json!(false))),
        ("users.search", with(&of_search, "cursor", list_cursor)),
    ];
    for (method, params) in refused {
        let failure = alice.call(method, params.clone()).await.unwrap_err();
        assert_eq!((failure.code, &failure.data["kind"]), (1401, &json!("cursor_invalid")), "{method} {params}");
    }
    assert_eq!(root.call("users.list", of_list).await.unwrap_err().code, 1401);
    assert_eq!(root.call("users.search", of_search).await.unwrap_err().code, 1401);
}

#[tokio::test]
async fn r10_a_list_shows_every_write_that_was_acknowledged_before_it() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("alice").await;
    for round in 0..20 {
        let bio = json!({"display_name": format!("Round{round} Alice")});
        update(&mut alice, bio).await.unwrap();
        let listed = alice.call("users.list", json!({"filter": {"rev": {"eq": round + 2}}})).await.unwrap();
        assert_eq!(names(&listed), ["alice"]);
        let found = alice.call("users.search", json!({"text": format!("round{round}"), "fuzzy": false})).await.unwrap();
        assert_eq!(names(&found), ["alice"]);
    }
}

#[tokio::test]
async fn r10_another_gateway_that_was_asked_for_the_position_finds_every_write_acknowledged_before() {
    let gateway = TestGateway::start().await;
    let sibling = gateway.sibling().await;
    let other = sibling.as_ref().unwrap_or(&gateway);
    let mut alice = gateway.logged_in("alice").await;
    for round in 0..20 {
        update(&mut alice, json!({"display_name": format!("Round{round} Alice")})).await.unwrap();
        other.call(Some(&alice.token), "users.changes", json!({})).await.unwrap();
        let text = json!({"text": format!("round{round}"), "fuzzy": false});
        assert_eq!(names(&other.call(Some(&alice.token), "users.search", text).await.unwrap()), ["alice"]);
    }
}

#[tokio::test]
async fn a_filter_is_applied_or_refused_with_its_path() {
    let gateway = TestGateway::start().await;
    let mut root = gateway.admin("keeper").await;
    let mut alice = gateway.logged_in("alice").await;
    gateway.logged_in("bob").await;
    root.call("users.deactivate", json!({"username": "bob"})).await.unwrap();
    for (filter, expected) in [
        (json!({"role": {"eq": "admin"}}), vec!["keeper"]),
        (json!({"status": {"ne": "active"}}), vec!["bob"]),
        (json!({"or": [{"username": {"prefix": "AL"}}, {"not": {"status": {"eq": "active"}}}]}), vec!["alice", "bob"]),
        (json!({"username": {"in": ["alice", "bob"]}, "status": {"eq": "active"}}), vec!["alice"]),
        (json!({"created_at": {"gte": "2020-01-01T00:00:00Z", "lt": "2020-01-02T00:00:00Z"}}), vec![]),
    ] {
        let listed = alice.call("users.list", json!({"filter": filter, "count": "exact"})).await.unwrap();
        assert_eq!((names(&listed), &listed["count"]), (expected.clone(), &json!(expected.len())), "{filter}");
    }
    for (filter, path) in [
        (json!({"shoe_size": {"eq": 1}}), "filter"),
        (json!({"role": {"like": "a"}}), "filter.role"),
        (json!({"or": [{"rev": {"eq": 1}}, {"rev": {"eq": "x"}}]}), "filter.or[1].rev"),
        (json!({"role": {"eq": "king"}}), "filter.role"),
        (json!([]), "filter"),
        (json!({"password_hash": {"exists": true}}), "filter"),
    ] {
        let failure = alice.call("users.list", json!({"filter": filter})).await.unwrap_err();
        let told = failure.data["fields"][0]["path"].as_str().unwrap();
        assert!(failure.code == -32602 && told.starts_with(path), "{filter}: {failure:?}");
    }
    for sort in ["role", "bio", "--username", "username,rev", ""] {
        let failure = alice.call("users.list", json!({"sort": sort})).await.unwrap_err();
        assert_eq!((failure.code, &failure.data["fields"][0]["path"]), (-32602, &json!("sort")), "{sort}");
    }
}

#[tokio::test]
async fn a_search_finds_the_best_first_and_shows_where() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("alice").await;
    for (name, display_name) in [("marta", "Marta Łukasz"), ("martin", "Martín Núñez"), ("mxrta", "Somebody")] {
        let mut user = gateway.logged_in(name).await;
        update(&mut user, json!({"display_name": display_name})).await.unwrap();
    }
    let found = alice.call("users.search", json!({"text": "MARTA"})).await.unwrap();
    assert_eq!((&names(&found)[..1], &found["next_cursor"]), (&["marta"][..], &Value::Null));
    assert!(names(&found).contains(&"mxrta"), "one letter may be wrong: {found}");
    let scores: Vec<_> = found["hits"].as_array().unwrap().iter().map(|hit| hit["score"].as_f64().unwrap()).collect();
    assert!(scores.is_sorted_by(|one, other| one >= other), "{scores:?}");
    let exact = alice.call("users.search", json!({"text": "marta", "fuzzy": false})).await.unwrap();
    assert_eq!((names(&exact), &exact["count"]), (vec!["marta"], &json!(1)));
    // Accents do not matter; highlights count code points of the text as it is written.
    let found = alice.call("users.search", json!({"text": "nunez mart", "fuzzy": false})).await.unwrap();
    assert_eq!(names(&found), ["martin"]);
    assert_eq!(found["hits"][0]["highlights"], json!({"username": [[0, 6]], "display_name": [[0, 6], [7, 12]]}));
    assert!(found["hits"][0]["user"].get("email").is_none());
    let filtered = json!({"text": "mart", "filter": {"username": {"prefix": "marti"}}});
    assert_eq!(names(&alice.call("users.search", filtered).await.unwrap()), ["martin"]);
    for text in ["a b c d e f g h i j k l m n o p q", &"x".repeat(201)] {
        let failure = alice.call("users.search", json!({"text": text})).await.unwrap_err();
        assert_eq!((failure.code, &failure.data["fields"][0]["path"]), (-32602, &json!("text")), "{text}");
    }
}

#[tokio::test]
async fn an_admin_makes_accounts_that_can_log_in() {
    let gateway = TestGateway::start().await;
    let mut root = gateway.admin("keeper").await;
    let params = json!({"username": "bob", "email": "bob@example.com", "password": PASSWORD, "display_name": "Bob"});
    let bob = root.call("users.create", params.clone()).await.unwrap()["user"].clone();
    assert_eq!(
        (&bob["role"], &bob["rev"], &bob["last_change"]["actor"]),
        (&json!("user"), &json!(1), &json!("keeper"))
    );
    gateway.call(None, "auth.login", json!({"login": "bob", "password": PASSWORD})).await.unwrap();
    let failure = root.call("users.create", params).await.unwrap_err();
    assert_eq!((failure.code, &failure.data["field"]), (1202, &json!("username")));
    let weak = json!({"username": "carol", "email": "carol@example.com", "password": "password1"});
    assert_eq!(root.call("users.create", weak).await.unwrap_err().code, 1205);
    let king = json!({"username": "carol", "email": "carol@example.com", "password": PASSWORD, "role": "king"});
    let failure = root.call("users.create", king).await.unwrap_err();
    assert_eq!((failure.code, &failure.data["fields"][0]["rule"]), (-32602, &json!("choice")));
}
