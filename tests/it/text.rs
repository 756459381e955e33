//! What users write: names that are compared, shown and searched, and values that come back as they were given.

use serde_json::{Value, json};

use crate::support::{TestClient, TestGateway};

async fn set(client: &mut TestClient, patch: Value) -> Result<Value, crate::support::Failure> {
    client.call("users.update", json!({"username": "me", "patch": patch})).await
}

/// A user who shows this name.
async fn named(gateway: &TestGateway, username: &str, display_name: &str) -> TestClient {
    let mut client = gateway.logged_in(username).await;
    set(&mut client, json!({"display_name": display_name})).await.unwrap();
    client
}

async fn listed(client: &mut TestClient, filter: Value) -> Vec<String> {
    let list = client.call("users.list", json!({"filter": filter})).await.unwrap();
    list["users"].as_array().unwrap().iter().map(|user| user["username"].as_str().unwrap().to_owned()).collect()
}

async fn found(client: &mut TestClient, params: Value) -> Vec<String> {
    let found = client.call("users.search", params).await.unwrap();
    found["hits"].as_array().unwrap().iter().map(|hit| hit["user"]["username"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn an_array_is_refused_wherever_an_object_of_params_is_expected() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("alice").await;
    for (method, params, path) in [
        ("users.update", json!({"username": "me", "patch": ["Eve", "hi"]}), "patch"),
        ("users.update", json!({"username": "me", "patch": []}), "patch"),
        ("users.subscribe", json!({"snapshot": []}), "snapshot"),
        ("users.subscribe", json!({"snapshot": ["username", 5]}), "snapshot"),
        ("auth.authenticate", json!({"access_token": alice.token, "resume": [{}, [null, "start"]]}), "resume[1]"),
        ("auth.authenticate", json!({"access_token": alice.token, "resume": [{"snapshot": []}]}), "resume[0].snapshot"),
        ("users.list", json!({"filter": []}), "filter"),
        ("users.get", json!(["alice"]), ""),
    ] {
        let failure = alice.call(method, params.clone()).await.unwrap_err();
        assert_eq!((failure.code, &failure.data["fields"][0]["path"]), (-32602, &json!(path)), "{method} {params}");
    }
    let me = alice.call("users.get", json!({"username": "me"})).await.unwrap();
    assert_eq!((&me["user"]["rev"], &me["user"]["display_name"]), (&json!(1), &json!("alice")));
}

#[tokio::test]
async fn names_of_different_people_are_different() {
    let gateway = TestGateway::start().await;
    let pairs = [("パパ", "ハハ"), ("राम", "रमा"), ("กิ", "กุ"), ("Йод", "Иод"), ("Zoë", "Zoé")];
    let mut client = gateway.logged_in("alice").await;
    for (at, (one, other)) in pairs.iter().enumerate() {
        named(&gateway, &format!("one{at}"), one).await;
        named(&gateway, &format!("other{at}"), other).await;
    }
    for (at, (one, _)) in pairs.iter().enumerate() {
        // Accents of Latin are optional: only there both are meant.
        let both = [format!("one{at}"), format!("other{at}")];
        let expected = if at == 4 { &both[..] } else { &both[..1] };
        assert_eq!(listed(&mut client, json!({"display_name": {"eq": one}})).await, expected, "{one}");
        assert_eq!(found(&mut client, json!({"text": one, "fuzzy": false})).await, expected, "{one}");
    }
    // However it is composed.
    assert_eq!(listed(&mut client, json!({"display_name": {"eq": "И\u{306}од"}})).await, ["one3"]);
}

#[tokio::test]
async fn a_display_name_that_deceives_is_refused_with_its_rule() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("alice").await;
    for (name, rule) in [
        ("\u{200b}\u{2060}", "invisible"),
        ("\u{3164}", "invisible"),
        ("\u{115f}\u{1160}", "invisible"),
        ("\u{2800}\u{2800}", "invisible"),
        ("\u{ad}", "invisible"),
        ("\u{301}", "invisible"),
        ("\u{200d}", "invisible"),
        ("ali\u{200b}ce", "invisible"),
        ("ali\u{200c}ce", "invisible"),
        ("alice\u{200d}", "invisible"),
        ("\u{feff}alice", "invisible"),
        ("a\u{ad}lice", "invisible"),
        ("alice\u{e0061}", "invisible"),
        ("al\u{202e}eci", "bidi_controls"),
        ("\u{2066}alice\u{2069}", "bidi_controls"),
        ("alice \u{e000}", "code_points"),
        ("alice \u{fdd0}", "code_points"),
        ("alice \u{10ffff}", "code_points"),
        ("alice \u{378}", "code_points"),
        ("alice\u{7}", "control_characters"),
        ("al\u{2028}ice", "control_characters"),
    ] {
        let failure = set(&mut alice, json!({"display_name": name})).await.unwrap_err();
        let field = &failure.data["fields"][0];
        assert_eq!(
            (failure.code, &field["path"], &field["rule"]),
            (-32602, &json!("patch.display_name"), &json!(rule)),
            "{name:?}"
        );
    }
    for name in [
        "👩‍👩‍👧‍👦 family",
        "🏴\u{e0067}\u{e0062}\u{e0073}\u{e0063}\u{e0074}\u{e007f}",
        "❤\u{fe0f}",
        "1\u{fe0f}\u{20e3}",
        "🏳\u{fe0f}\u{200d}🌈",
        "👩🏽\u{200d}🚀",
        "می\u{200c}خواهم",
        "क्\u{200d}ष",
        "Nguyễn Văn Đức",
        "O’Neil-Šćepanović",
        "…",
        "¯\\_(ツ)_/¯",
    ] {
        let user =
            set(&mut alice, json!({"display_name": name})).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!(user["user"]["display_name"], name);
    }
    // Siblings: longer texts may be empty and hold joiners, but turn no line around, and name no unknown characters.
    for (text, rule) in [("\u{202e}txt", "bidi_controls"), ("x\u{e000}", "code_points"), ("x\u{ffff}", "code_points")] {
        let failure = set(&mut alice, json!({"bio": text})).await.unwrap_err();
        assert_eq!((failure.code, &failure.data["fields"][0]["rule"]), (-32602, &json!(rule)), "{text:?}");
        let params = json!({"username": "me", "reason": text});
        let failure = alice.call("users.deactivate", params).await.unwrap_err();
        assert_eq!((failure.code, &failure.data["fields"][0]["rule"]), (-32602, &json!(rule)), "{text:?}");
        let params = json!({"login": "alice", "password": crate::support::PASSWORD, "device": text});
        let failure = gateway.call(None, "auth.login", params).await.unwrap_err();
        assert_eq!((failure.code, &failure.data["fields"][0]["rule"]), (-32602, &json!(rule)), "{text:?}");
    }
    set(&mut alice, json!({"bio": "ab\u{ad}cd \u{200f}\nשלום"})).await.unwrap();
}

#[tokio::test]
async fn numbers_in_attributes_come_back_digit_by_digit() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("alice").await;
    let mut numbers =
        vec!["1", "1.0", "1e2", "1E+2", "-0", "-0.0", "0.1000000000000000055511151231257827021181583404541015625"];
    numbers.extend([
        "9007199254740993",
        "18446744073709551615",
        "-9223372036854775808",
        "123456789012345678901234567890",
    ]);
    numbers.extend(["1e400", "0.30000000000000004", "2.50"]);
    let list = numbers.join(",");
    let attributes = format!(r#"{{"b":[{list}],"a":{{"deep":[1.0]}}}}"#);
    let call = |id: u32, patch: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"users.update","params":{{"username":"me","patch":{patch}}}}}"#)
    };
    let reply = alice.exchange(call(900, &format!(r#"{{ "attributes": {attributes} }}"#))).await;
    let kept = format!(r#""attributes":{{"a":{{"deep":[1.0]}},"b":[{list}]}}"#);
    assert!(reply.contains(&kept), "{reply}");
    // The same once more is no change; another spelling is one.
    let reply = alice.exchange(call(901, &format!(r#"{{"attributes":{attributes}}}"#))).await;
    assert!(reply.contains(r#""rev":2"#), "{reply}");
    // From the store, too.
    let other = gateway
        .logged_in("bob")
        .await
        .exchange(r#"{"jsonrpc":"2.0","id":1,"method":"users.get","params":{"username":"alice"}}"#)
        .await;
    assert!(other.contains(&kept), "{other}");
    // What is kept is still checked.
    for (attributes, path, rule) in [
        (r#"{"a":[{"b":1,"b":1.0}]}"#, "patch.attributes.a[0]", "repeated"),
        ("[1]", "patch.attributes", "type"),
        ("1.0", "patch.attributes", "type"),
    ] {
        let reply = alice.exchange(call(902, &format!(r#"{{"attributes":{attributes}}}"#))).await;
        let error = serde_json::from_str::<Value>(&reply).unwrap()["error"].clone();
        let field = &error["data"]["fields"][0];
        assert_eq!((&error["code"], &field["path"], &field["rule"]), (&json!(-32602), &json!(path), &json!(rule)));
    }
}

#[tokio::test]
async fn a_filter_takes_times_up_to_the_end_of_the_year_9999() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("alice").await;
    for until in
        ["9999-12-31T23:59:59.999Z", "9999-12-31T00:00:00Z", "9999-12-30T22:00:01Z", "9999-12-31T23:59:59+02:00"]
    {
        assert_eq!(listed(&mut alice, json!({"created_at": {"lte": until}})).await, ["alice"], "{until}");
        assert_eq!(listed(&mut alice, json!({"created_at": {"gt": until}})).await, Vec::<String>::new(), "{until}");
    }
}

#[tokio::test]
async fn names_without_spaces_are_found_by_what_is_in_their_middle() {
    let gateway = TestGateway::start().await;
    let mut li = named(&gateway, "lxh", "李小明华").await;
    named(&gateway, "mh1", "明华").await;
    named(&gateway, "kim", "김민수").await;
    named(&gateway, "tanaka", "たなか一郎").await;
    named(&gateway, "smith", "Goldsmith").await;
    let exactly = |text: &str| json!({"text": text, "fuzzy": false});
    // Who has just that comes first.
    assert_eq!(found(&mut li, exactly("明华")).await, ["mh1", "lxh"]);
    assert_eq!(found(&mut li, exactly("小明")).await, ["lxh"]);
    assert_eq!(found(&mut li, exactly("민수")).await, ["kim"]);
    assert_eq!(found(&mut li, exactly("か一郎")).await, ["tanaka"]);
    // Not what only has the same characters, nor the middle of an alphabet's words.
    assert_eq!(found(&mut li, exactly("华明")).await, Vec::<String>::new());
    assert_eq!(found(&mut li, exactly("mith")).await, Vec::<String>::new());
    let hit = li.call("users.search", exactly("小明")).await.unwrap()["hits"][0].clone();
    assert_eq!((&hit["score"], &hit["highlights"]["display_name"]), (&json!(0.5), &json!([[0, 4]])));
    // Pages, and a name that has gone.
    let page = li.call("users.search", json!({"text": "明华", "limit": 1})).await.unwrap();
    let next = json!({"text": "明华", "limit": 1, "cursor": page["next_cursor"]});
    assert_eq!(found(&mut li, next).await, ["lxh"]);
    set(&mut li, json!({"display_name": "李"})).await.unwrap();
    assert_eq!(found(&mut li, exactly("小明")).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_text_without_words_finds_nobody() {
    let gateway = TestGateway::start().await;
    let mut alice = named(&gateway, "alice", "🦀 !!").await;
    for text in ["🦀", "👩‍🚀", "!!", "*", " ", "", "١\u{20e3}\u{fe0f}?"] {
        let result =
            alice.call("users.search", json!({"text": text})).await.unwrap_or_else(|error| panic!("{text}: {error:?}"));
        assert_eq!(result, json!({"hits": [], "next_cursor": null, "count": 0}), "{text}");
    }
}

#[tokio::test]
async fn every_username_is_found_by_itself() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("alice").await;
    for name in [
        "a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p",
        "9-8_7.6",
        "x--",
        "AND-OR_NOT.NEAR",
        "a__________b",
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef",
        "ghijklmnopqrstuvwxyz0123456789._",
    ] {
        gateway.logged_in(name).await;
        for fuzzy in [true, false] {
            let hits = found(&mut alice, json!({"text": name, "fuzzy": fuzzy})).await;
            assert!(hits.iter().any(|hit| hit == name), "{name}: {hits:?}");
        }
    }
}
