//! The REST endpoints: the same methods under other names, errors as problem documents.

use serde_json::{Value, json};

use crate::support::{PASSWORD, TestGateway};

/// The status, content type and body of a response.
async fn taken(response: reqwest::Response) -> (u16, String, Value) {
    let kind = response.headers().get("content-type").map(|value| value.to_str().unwrap().to_owned());
    let status = response.status().as_u16();
    assert_eq!(response.headers()["cache-control"], "no-store");
    assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    let body = response.text().await.unwrap();
    (status, kind.unwrap_or_default(), serde_json::from_str(&body).unwrap_or_default())
}

/// A request whose body is this JSON, or none for null.
async fn ask(gateway: &TestGateway, method: &str, path: &str, token: &str, body: Value) -> (u16, Value) {
    let body = (!body.is_null()).then(|| body.to_string().into());
    let token = (!token.is_empty()).then_some(token);
    let (status, kind, body) = taken(gateway.rest(method, path, token, body).await).await;
    match status {
        200 | 201 => assert_eq!(kind, "application/json"),
        204 => assert_eq!((kind.as_str(), &body), ("", &Value::Null)),
        _ => {
            assert_eq!(kind, "application/problem+json", "{body}");
            assert_eq!((&body["status"], &body["type"]), (&json!(status), &json!("about:blank")));
            assert!(body["title"].is_string() && body["detail"].is_string(), "{body}");
        }
    }
    (status, body)
}

#[tokio::test]
async fn an_account_lives_through_the_nine_endpoints() {
    let gateway = TestGateway::start().await;
    let root = gateway.admin("keeper").await.token;
    let params = json!({"username": "alice", "email": "alice@example.com", "password": PASSWORD});
    let (status, registered) = ask(&gateway, "POST", "/auth/register", "", params).await;
    assert_eq!((status, &registered["user"]["username"]), (201, &json!("alice")));
    let login = json!({"login": "alice@example.com", "password": PASSWORD});
    let (status, signed_in) = ask(&gateway, "POST", "/auth/login", "", login.clone()).await;
    let alice = signed_in["tokens"]["access_token"].as_str().unwrap();
    assert_eq!((status, &signed_in["user"]), (200, &registered["user"]));

    let (status, me) = ask(&gateway, "GET", "/users/me", alice, Value::Null).await;
    assert_eq!((status, &me["user"]), (200, &registered["user"]));
    let patch = json!({"bio": "hello", "email": "new@example.com", "current_password": PASSWORD, "if_rev": 1});
    let (status, patched) = ask(&gateway, "PATCH", "/users/me", alice, patch).await;
    assert_eq!(
        (status, &patched["user"]["email"], &patched["user"]["rev"]),
        (200, &json!("new@example.com"), &json!(2))
    );
    let (status, other) = ask(&gateway, "GET", "/users/keeper", alice, Value::Null).await;
    assert_eq!((status, other["user"].get("email")), (200, None));

    let role = json!({"role": "admin", "if_rev": 2});
    let (status, promoted) = ask(&gateway, "PATCH", "/admin/users/alice", &root, role).await;
    assert_eq!((status, &promoted["user"]["role"], &promoted["user"]["rev"]), (200, &json!("admin"), &json!(3)));
    let (status, changed) = ask(&gateway, "PATCH", "/admin/users/alice", &root, json!({"bio": null})).await;
    assert_eq!((status, &changed["user"]["bio"]), (200, &json!("")));
    let (_, signed_in) =
        ask(&gateway, "POST", "/auth/login", "", json!({"login": "alice", "password": PASSWORD})).await;
    let alice = signed_in["tokens"]["access_token"].as_str().unwrap();
    assert_eq!(ask(&gateway, "DELETE", "/admin/users/keeper", alice, Value::Null).await.0, 204);
    let (status, problem) = ask(&gateway, "DELETE", "/users/me", alice, Value::Null).await;
    assert_eq!((status, &problem["code"], &problem["kind"]), (403, &json!(1102), &json!("last_admin")));
    assert_eq!(ask(&gateway, "GET", "/users/me", &root, Value::Null).await.0, 401);
}

#[tokio::test]
async fn a_user_closes_their_own_account() {
    let gateway = TestGateway::start().await;
    let alice = gateway.logged_in("alice").await.token;
    assert_eq!(ask(&gateway, "DELETE", "/users/me", &alice, Value::Null).await.0, 204);
    let (status, problem) = ask(&gateway, "GET", "/users/me", &alice, Value::Null).await;
    assert_eq!((status, &problem["code"]), (401, &json!(1004)));
}

#[tokio::test]
async fn the_list_takes_plain_parameters() {
    let gateway = TestGateway::start().await;
    let root = gateway.admin("keeper").await.token;
    for name in ["alice", "bob", "carol"] {
        gateway.logged_in(name).await;
    }
    let names = async |query: &str| {
        let (status, page) = ask(&gateway, "GET", &format!("/users{query}"), &root, Value::Null).await;
        assert_eq!(status, 200, "{query}: {page}");
        let users = page["users"].as_array().cloned().unwrap_or_default();
        let hits = page["hits"].as_array().cloned().unwrap_or_default();
        let names = users.iter().chain(hits.iter().map(|hit| &hit["user"])).map(|user| user["username"].clone());
        (names.collect::<Value>(), page["next_cursor"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(names("").await.0, json!(["alice", "bob", "carol", "keeper"]));
    let (page, cursor) = names("?limit=2&sort=-username&role=user").await;
    assert_eq!(page, json!(["carol", "bob"]));
    let (page, end) = names(&format!("?limit=2&sort=-username&role=user&cursor={cursor}")).await;
    assert_eq!((page, end), (json!(["alice"]), String::new()));
    assert_eq!(names("?q=carol").await.0, json!(["carol"]));
    assert_eq!(names("?q=carol&role=admin").await.0, json!([]));
    assert_eq!(names("?status=deactivated").await.0, json!([]));
    for (query, path) in [
        ("?limit=many", "limit"),
        ("?limit=0", "limit"),
        ("?role=king", "role"),
        ("?status=odd", "status"),
        ("?q=zoe&role=king", "role"),
        ("?fuzzy=true", "fuzzy"),
        ("?filter=%7B%7D", "filter"),
        ("?sort=rev", "sort"),
        ("?q=a+b+c+d+e+f+g+h+i+j+k+l+m+n+o+p+q", "q"),
        ("?sort=a&sort=b", "sort"),
        ("?q=zoe&sort=rev", "sort"),
        ("?x%22=1", "x\""),
    ] {
        let (status, problem) = ask(&gateway, "GET", &format!("/users{query}"), &root, Value::Null).await;
        assert_eq!((status, &problem["code"]), (400, &json!(-32602)), "{query}");
        assert_eq!(problem["fields"][0]["path"], path, "{query}: {problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.starts_with(&format!("Parameter {path}: ")), "{query}: {detail}");
    }
    let (status, problem) = ask(&gateway, "GET", "/users?cursor=x", &root, Value::Null).await;
    assert_eq!((status, &problem["code"], &problem["kind"]), (400, &json!(1401), &json!("cursor_invalid")));
    // What is not UTF-8 is U+FFFD, which is in no word.
    let (status, found) = ask(&gateway, "GET", "/users?q=%ff", &root, Value::Null).await;
    assert_eq!((status, &found["count"]), (200, &json!(0)));
}

#[tokio::test]
async fn every_refusal_has_its_status_and_the_code_of_the_method() {
    let gateway = TestGateway::start().await;
    let root = gateway.admin("keeper").await.token;
    let alice = gateway.logged_in("alice").await.token;
    let taken = json!({"username": "ALICE", "email": "a@example.com", "password": PASSWORD});
    let weak = json!({"username": "bob", "email": "bob@example.com", "password": "password1"});
    let wrong = json!({"login": "alice", "password": "a wrong one for alice"});
    let cases = [
        ("POST", "/auth/register", "", taken, 409, 1202),
        ("POST", "/auth/register", "", weak, 422, 1205),
        ("POST", "/auth/register", "", json!({"username": "bob"}), 400, -32602),
        ("POST", "/auth/register", "", json!([]), 400, -32600),
        ("POST", "/auth/login", "", wrong, 401, 1005),
        ("POST", "/auth/login", "x", json!({}), 400, -32602), // which anyone may call
        ("GET", "/users/me", "x", Value::Null, 401, 1003),
        ("PATCH", "/users/me", "", json!([]), 401, 1001),
        ("PATCH", "/users/me", "x", json!([]), 401, 1003),
        ("GET", "/users/me", "", Value::Null, 401, 1001),
        ("GET", "/users", "", Value::Null, 401, 1001),
        ("GET", "/users?limit=x", "", Value::Null, 401, 1001), // judged before what they ask
        ("GET", "/users?limit=x", &alice, Value::Null, 400, -32602),
        ("GET", "/users/nobody", &alice, Value::Null, 404, 1201),
        ("GET", "/users/-", &alice, Value::Null, 400, -32602),
        ("PATCH", "/users/me", &alice, json!({"role": "admin"}), 400, -32602),
        ("PATCH", "/users/me", &alice, json!({"bio": "x", "if_rev": 7}), 409, 1203),
        ("PATCH", "/users/me", &alice, json!({"email": "b@example.com", "current_password": "a wrong one"}), 401, 1005),
        ("PATCH", "/admin/users/keeper", &alice, json!({"bio": "x"}), 403, 1101),
        ("PATCH", "/admin/users/alice", &alice, json!({"role": "admin"}), 403, 1101),
        ("PATCH", "/admin/users/alice", &root, json!({"role": "admin", "bio": "x"}), 400, -32602),
        ("PATCH", "/admin/users/nobody", &root, json!({"bio": "x"}), 404, 1201),
        ("DELETE", "/admin/users/keeper", &alice, Value::Null, 403, 1101),
        ("DELETE", "/admin/users/nobody", &root, Value::Null, 404, 1201),
    ];
    for (method, path, token, body, status, code) in cases {
        let (was, problem) = ask(&gateway, method, path, token, body).await;
        assert_eq!((was, &problem["code"]), (status, &json!(code)), "{method} {path}: {problem}");
        assert!(problem["kind"].is_string() && problem["request_id"].is_string() && problem["retryable"].is_boolean());
    }
}

#[tokio::test]
async fn j03_a_body_that_is_no_json_object_is_refused() {
    let gateway = TestGateway::start().await;
    for (body, code) in [("{", -32700), ("", -32700), ("7", -32600), (r#"{"login":"a","login":"b"}"#, -32602)] {
        let response = gateway.rest("POST", "/auth/login", None, Some(body.into())).await;
        let (status, _, problem) = taken(response).await;
        assert_eq!((status, &problem["code"]), (400, &json!(code)), "{body}");
    }
    let deep = format!("{{\"login\":{}{}}}", "[".repeat(5000), "]".repeat(5000));
    assert_eq!(gateway.rest("POST", "/auth/login", None, Some(deep.into())).await.status(), 400);
}

#[tokio::test]
async fn an_error_names_what_the_body_has() {
    let gateway = TestGateway::start().await;
    let root = gateway.admin("keeper").await.token;
    let alice = gateway.logged_in("alice").await.token;
    for (path, token, body, told) in [
        ("/users/me", &alice, json!({"role": "admin"}), "role"),
        ("/users/me", &alice, json!({"bio": "x".repeat(501)}), "bio"),
        ("/users/me", &alice, json!({"bio": 7}), "bio"),
        ("/users/me", &alice, json!({"patch": {}}), "patch"),
        ("/users/me", &alice, json!({"username": "bob"}), "username"),
        ("/users/me", &alice, json!({"if_rev": "x"}), "if_rev"),
        ("/users/me", &alice, json!({"current_password": 1}), "current_password"),
        ("/users/me", &alice, json!({"avatar_url": "ftp://x"}), "avatar_url"),
        ("/admin/users/alice", &root, json!({"role": "king"}), "role"),
        ("/admin/users/alice", &root, json!({"role": "user", "if_rev": "x"}), "if_rev"),
        ("/admin/users/alice", &root, json!({"bio": []}), "bio"),
        ("/admin/users/alice", &root, json!({"bio": "x", "role": "user"}), "role"),
    ] {
        let (status, problem) = ask(&gateway, "PATCH", path, token, body.clone()).await;
        assert_eq!((status, &problem["fields"][0]["path"]), (400, &json!(told)), "{body}: {problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.starts_with(&format!("Parameter {told}: ")), "{detail}");
    }
    let (_, problem) = ask(&gateway, "GET", "/users/-", &alice, Value::Null).await;
    assert_eq!(problem["fields"][0]["path"], "username");
}

#[tokio::test]
async fn j03_rest_refuses_the_same_texts_as_rpc_and_says_the_same() {
    let gateway = TestGateway::start().await;
    let alice = gateway.logged_in("alice").await.token;
    let essence = |error: &Value, data: &Value| {
        let fields = data["fields"].as_array().cloned().unwrap_or_default();
        let paths = fields.iter().map(|field| {
            let path = field["path"].as_str().unwrap();
            json!([path.strip_prefix("patch").map_or(path, |rest| rest.trim_start_matches('.')), field["rule"]])
        });
        json!([error["code"], data["kind"], paths.collect::<Value>()])
    };
    let logins = [
        r#"{"login":"\ud800","password":"x"}"#,
        r#"{"login":"a","login":"b","password":"x"}"#,
        r#"{"login":"a","lo\u0067in":"b","password":"x"}"#,
        r#"{"login":1e400,"password":"x"}"#,
        r#"{"login":-1e400,"password":"x"}"#,
        r#"{"login":"a","password":"\udc00\ud800"}"#,
        r#"{"login":"a","password":"x","\ud800":1}"#,
        r#"{"login":"a","password":"x","more":1e999}"#,
        r#"{"login":"a","password":"x","more":{"a":1,"a":2}}"#,
        r#"{"login":7,"password":"x"}"#,
        r#"{"password":"x"}"#,
        r#"{"login":"a","password":"#,
        "{} {}",
        "\u{feff}{}",
        "",
        "7",
        "\"x\"",
    ];
    let patches = [
        r#"{"bio":"\udc00"}"#,
        r#"{"bio":"a","bio":"b"}"#,
        r#"{"bio":"a","b\u0069o":"b"}"#,
        r#"{"bio":1e400}"#,
        r#"{"attributes":{"a":"\ud800"}}"#,
        r#"{"attributes":{"\ud800":1}}"#,
        r#"{"attributes":{"a":{"b":1,"b":2}}}"#,
        r#"{"\ud800":1}"#,
        r#"{"more":1}"#,
    ];
    let logins = logins.map(|body| ("POST", "/auth/login", "auth.login", body, body.to_owned()));
    let patches = patches
        .map(|body| ("PATCH", "/users/me", "users.update", body, format!(r#"{{"username":"me","patch":{body}}}"#)));
    for (verb, path, method, body, params) in logins.into_iter().chain(patches) {
        let call = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        let reply: Value = serde_json::from_str(&gateway.post(Some(&alice), call).await.1).unwrap();
        let response = gateway.rest(verb, path, Some(&alice), Some(body.into())).await;
        let (status, _, problem) = taken(response).await;
        let (error, problem) = (&reply["error"], &problem);
        let (by_rpc, by_rest) = (essence(error, &error["data"]), essence(problem, problem));
        assert_eq!((by_rest, status), (by_rpc, 400), "{body}: {problem}");
    }
    // What stands beside the patch is told by its own name.
    for (body, told) in [
        (r#"{"if_rev":1,"if_rev":1}"#, json!(["if_rev", "repeated"])),
        (r#"{"if_rev":1,"if\u005frev":1}"#, json!(["if_rev", "repeated"])),
        (r#"{"if_rev":1e400}"#, json!(["if_rev", "invalid"])),
        (r#"{"current_password":"\ud800"}"#, json!(["current_password", "invalid"])),
    ] {
        let (status, _, problem) =
            taken(gateway.rest("PATCH", "/users/me", Some(&alice), Some(body.into())).await).await;
        let field = &problem["fields"][0];
        assert_eq!((status, json!([field["path"], field["rule"]])), (400, told), "{body}: {problem}");
    }
    // The limit of nesting is that of the text that was sent.
    for (levels, code) in [(63, -32602), (64, -32700)] {
        let body = format!(r#"{{"login":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
        let (_, _, problem) = taken(gateway.rest("POST", "/auth/login", None, Some(body.into())).await).await;
        assert_eq!(problem["code"], code, "{levels} levels within the body");
    }
}

#[tokio::test]
async fn another_content_type_is_415() {
    let gateway = TestGateway::start().await;
    let http = reqwest::Client::new();
    for path in ["/rpc", "/auth/login"] {
        for (kind, status) in [
            (Some("text/plain"), 415),
            (Some("application/jsonp"), 415),
            (None, 415),
            (Some("application/json"), 400),
            (Some("Application/JSON; charset=utf-8"), 400),
        ] {
            let mut request = http.post(format!("http://{}{path}", gateway.address)).body("{}");
            if let Some(kind) = kind {
                request = request.header("content-type", kind);
            }
            assert_eq!(request.send().await.unwrap().status(), status, "{path} with {kind:?}");
        }
    }
}

#[tokio::test]
async fn a_method_that_a_path_does_not_have_is_405_with_those_it_has() {
    let gateway = TestGateway::start().await;
    for (method, path, allowed) in [
        ("DELETE", "/rpc", "GET, POST"),
        ("HEAD", "/rpc", "GET, POST"),
        ("GET", "/auth/login", "POST"),
        ("HEAD", "/auth/login", "POST"),
        ("PUT", "/auth/register", "POST"),
        ("POST", "/users", "GET, HEAD"),
        ("PUT", "/users/me", "GET, HEAD, PATCH, DELETE"),
        ("PUT", "/users/alice", "GET, HEAD"),
        ("PATCH", "/users/alice", "GET, HEAD"),
        ("DELETE", "/users/alice", "GET, HEAD"),
        ("GET", "/admin/users/alice", "PATCH, DELETE"),
        ("POST", "/healthz", "GET, HEAD"),
        ("POST", "/healthz/", "GET, HEAD"),
        ("POST", "/readyz", "GET, HEAD"),
        ("POST", "/.well-known/jwks.json", "GET, HEAD"),
    ] {
        let response = gateway.rest(method, path, None, None).await;
        assert_eq!(
            response.headers().get("allow").map(|value| value.to_str().unwrap()),
            Some(allowed),
            "{method} {path}"
        );
        assert_eq!(response.status(), 405, "{method} {path}");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
    }
    for path in ["/", "/user", "/users/alice/more", "/admin/users", "/rpc/", "/.env"] {
        assert_eq!(ask(&gateway, "GET", path, "", Value::Null).await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn head_is_answered_as_get_would_be_without_the_body() {
    let gateway = TestGateway::start().await;
    let alice = gateway.logged_in("alice").await.token;
    for path in ["/healthz", "/readyz/", "/.well-known/jwks.json", "/users", "/users/me", "/users/nobody", "/nowhere"] {
        for token in [None, Some(alice.as_str())] {
            let get = gateway.rest("GET", path, token, None).await;
            let head = gateway.rest("HEAD", path, token, None).await;
            assert_eq!(head.status(), get.status(), "{path}");
            assert_eq!(head.headers().get("content-type"), get.headers().get("content-type"), "{path}");
            assert_eq!(head.text().await.unwrap(), "");
        }
    }
}

#[tokio::test]
async fn health_and_readiness_need_nobody_signed_in() {
    let gateway = TestGateway::start().await;
    for (path, status) in [("/healthz", "ok"), ("/readyz", "ready"), ("/healthz/", "ok"), ("/readyz/", "ready")] {
        let (code, body) = ask(&gateway, "GET", path, "", Value::Null).await;
        assert_eq!((code, &body["status"]), (200, &json!(status)));
    }
}
