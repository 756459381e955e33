//! Origins: which web pages may speak to the gateway, over sockets and by CORS.

use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use crate::support::{PASSWORD, TestClient, TestGateway};

const APP: &str = "https://app.example.com";

async fn listed() -> TestGateway {
    let list = "https://app.example.com, http://localhost:5173,https://[2001:db8::1]:8443";
    TestGateway::with(|config| config.allowed_origins = list.parse().unwrap()).await
}

/// The status that a page of this origin gets for a handshake, and for a call.
async fn statuses(gateway: &TestGateway, origin: &str) -> (u16, u16) {
    let upgrade = TestClient::try_connect(gateway.address, &[("origin", origin)]).await;
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "system.ping"});
    let request = reqwest::Client::new().post(format!("http://{}/rpc", gateway.address)).json(&call);
    let response = request.header("origin", origin).send().await.unwrap();
    let named = response.headers().get("access-control-allow-origin").map(|value| value.to_str().unwrap());
    assert_eq!(named, (response.status() == 200).then_some(origin), "what is named by CORS is what is let in");
    (upgrade.err().unwrap_or(101), response.status().as_u16())
}

#[tokio::test]
async fn s17_only_the_listed_origins_are_let_in_and_exactly_those() {
    let gateway = listed().await;
    for origin in [APP, "http://localhost:5173", "https://[2001:db8::1]:8443"] {
        assert_eq!(statuses(&gateway, origin).await, (101, 200), "{origin}");
    }
    for origin in [
        "null",
        "",
        "*",
        "http://app.example.com",
        "ws://app.example.com",
        "https://app.example.com:443",
        "https://app.example.com:8443",
        "https://app.example.com.",
        "https://app.example.com/",
        "https://app.example.com/page",
        "https://app.example.com.evil.example",
        "https://evil-app.example.com",
        "https://evilapp.example.com",
        "https://sub.app.example.com",
        "https://example.com",
        "https://app.example.co",
        "https://app.example.com@evil.example",
        "https://evil.example#https://app.example.com",
        "https://APP.example.com",
        "app.example.com",
        "https://app.example.com, https://evil.example",
        "https://app.example.com https://evil.example",
        "http://localhost",
        "http://localhost:5174",
        "http://127.0.0.1:5173",
    ] {
        assert_eq!(statuses(&gateway, origin).await, (403, 403), "{origin}");
    }
    let twice = [("origin", APP), ("origin", APP)];
    assert_eq!(TestClient::try_connect(gateway.address, &twice).await.err(), Some(403));
    // Programs are no pages.
    gateway.logged_in("alice").await;
}

#[tokio::test]
async fn s17_without_a_list_only_pages_of_the_gateways_own_host_and_port_are_let_in() {
    let gateway = TestGateway::start().await;
    let own = gateway.address.to_string();
    for origin in [format!("http://{own}"), format!("https://{own}")] {
        assert_eq!(statuses(&gateway, &origin).await, (101, 200), "{origin}");
    }
    for origin in ["null", "http://127.0.0.1", "http://localhost", APP, &own, &format!("ws://{own}"), "http://"] {
        assert_eq!(statuses(&gateway, origin).await, (403, 403), "{origin}");
    }
}

#[tokio::test]
async fn s17_the_gateways_own_pages_are_served_whatever_is_listed_and_however_its_host_is_written() {
    for gateway in [TestGateway::start().await, listed().await] {
        let own = format!("http://{}", gateway.address);
        assert_eq!(statuses(&gateway, &own).await, (101, 200));
        for (host, origin, status) in [
            ("name.example", "http://name.example", 200),
            ("name.example", "https://name.example", 200), // a proxy in front may speak TLS
            ("name.example:443", "https://name.example", 200),
            ("name.example:80", "http://name.example", 200),
            ("NAME.Example:443", "https://name.example", 200),
            ("name.example.", "https://name.example", 200),
            ("name.example.:443", "https://name.example", 200),
            ("name.example.", "https://name.example.", 200),
            ("name.example:8443", "https://name.example:8443", 200),
            ("[2001:DB8::1]:443", "https://[2001:db8::1]", 200),
            ("name.example:443", "http://name.example", 403),
            ("name.example:80", "https://name.example", 403),
            ("name.example", "https://name.example:8443", 403),
            ("name.example:8443", "https://name.example", 403),
            ("name.example:4433", "https://name.example", 403),
            ("other.example", "https://name.example", 403),
            ("name.example", "https://sub.name.example", 403),
            ("name.example", "https://name.example.evil.example", 403),
            ("name.example", "https://name.example/", 403),
            ("name.example", "capacitor://name.example", 403),
            ("name.example", "null", 403),
        ] {
            let request = reqwest::Client::new().get(format!("http://{}/healthz", gateway.address));
            let response = request.header("host", host).header("origin", origin).send().await.unwrap();
            assert_eq!(response.status(), status, "{origin} at {host}");
        }
    }
}

#[tokio::test]
async fn s17_pages_of_apps_are_served_where_their_origin_is_listed() {
    let origins =
        ["capacitor://localhost", "ionic://localhost", "tauri://localhost", "chrome-extension://abcdefghijklm"];
    let gateway = TestGateway::with(|config| config.allowed_origins = origins.join(",").parse().unwrap()).await;
    for origin in origins {
        assert_eq!(statuses(&gateway, origin).await, (101, 200), "{origin}");
    }
    for origin in ["capacitor://evil", "capacitor://localhost:1", "capacitor://", "electron://localhost", "null"] {
        assert_eq!(statuses(&gateway, origin).await, (403, 403), "{origin}");
    }
    assert_eq!(statuses(&TestGateway::start().await, "capacitor://localhost").await, (403, 403));
}

#[tokio::test]
async fn s17_a_refusal_names_the_origin_and_a_setting_that_would_change_it() {
    let long = format!("https://{}.example", "x".repeat(5000));
    for (gateway, list) in [(TestGateway::start().await, false), (listed().await, true)] {
        for (origin, told) in [
            ("https://evil.example", "\"https://evil.example\""),
            ("https://a\"<script>\\", r#""https://a\"<script>\\""#),
            ("https://é.example", "\"https://é.example\""),
            (&long, "x\"…"),
        ] {
            for path in ["/rpc", "/users/me"] {
                let request = reqwest::Client::new().get(format!("http://{}{path}", gateway.address));
                let origin = reqwest::header::HeaderValue::from_bytes(origin.as_bytes()).unwrap();
                let response = request.header("origin", origin).send().await.unwrap();
                assert_eq!(response.status(), 403);
                let body: Value = response.json().await.unwrap();
                let message = body["error"]["message"].as_str().or(body["detail"].as_str()).unwrap();
                assert!(message.contains(told) && message.len() < 400, "{message}");
                assert!(message.contains("DOORWARD_ALLOWED_ORIGINS"), "{message}");
                assert_eq!(message.contains("one of DOORWARD_ALLOWED_ORIGINS"), list, "it names a list that is there");
            }
        }
    }
}

/// A request of a page, with its response's status and headers.
async fn from_page(gateway: &TestGateway, method: &str, path: &str, origin: &str) -> (u16, HeaderMap) {
    let url = format!("http://{}{path}", gateway.address);
    let request = reqwest::Client::new().request(method.parse().unwrap(), url).header("origin", origin);
    let request = request.header("access-control-request-headers", "traceparent,x-requested-with, Cache-Control");
    let response = request.header("access-control-request-method", "PATCH").send().await.unwrap();
    (response.status().as_u16(), response.headers().clone())
}

#[tokio::test]
async fn s17_whatever_depends_on_the_origin_says_so_to_caches() {
    let gateway = listed().await;
    for (method, path) in [
        ("GET", "/healthz"),
        ("GET", "/.well-known/jwks.json"),
        ("POST", "/rpc"),
        ("GET", "/rpc"),
        ("GET", "/users/me"),
        ("GET", "/nowhere"),
        ("OPTIONS", "/rpc"),
    ] {
        let url = format!("http://{}{path}", gateway.address);
        for origin in [None, Some(APP), Some("https://evil.example")] {
            let mut request = reqwest::Client::new().request(method.parse().unwrap(), &url);
            if let Some(origin) = origin {
                request = request.header("origin", origin).header("access-control-request-method", "POST");
            }
            let response = request.send().await.unwrap();
            let vary = response.headers().get("vary").map(|value| value.to_str().unwrap());
            assert_eq!(vary, Some("origin"), "{method} {path} for {origin:?}: {}", response.status());
        }
    }
}

#[tokio::test]
async fn s17_preflights_are_answered_by_the_same_list() {
    let gateway = listed().await;
    for path in ["/rpc", "/users/me", "/auth/login"] {
        let (status, headers) = from_page(&gateway, "OPTIONS", path, APP).await;
        assert_eq!((status, &headers["access-control-allow-origin"]), (204, &APP.parse().unwrap()));
        // There are no cookies: nothing is lost by any header that a page's libraries add.
        assert_eq!(headers["access-control-allow-headers"], "traceparent,x-requested-with, Cache-Control");
        assert_eq!(headers["access-control-allow-methods"], "GET, POST, PATCH, DELETE");
        assert!(!headers.contains_key("access-control-allow-credentials"));
        let (status, headers) = from_page(&gateway, "OPTIONS", path, "https://evil.example").await;
        assert_eq!((status, headers.contains_key("access-control-allow-origin")), (403, false));
    }
    // Errors can be read by the page as well.
    let (status, headers) = from_page(&gateway, "GET", "/users/me", APP).await;
    assert_eq!((status, &headers["access-control-allow-origin"]), (401, &APP.parse().unwrap()));
    assert_eq!(headers["vary"], "origin");
}

#[tokio::test]
async fn s24_every_response_forbids_to_store_it_or_to_guess_its_type() {
    let gateway = listed().await;
    let token = gateway.logged_in("alice").await.token;
    let login = json!({"login": "alice", "password": PASSWORD}).to_string();
    for (method, path, token, body) in [
        ("GET", "/healthz", None, None),
        ("GET", "/readyz", None, None),
        ("GET", "/rpc", None, None),
        ("GET", "/nowhere", None, None),
        ("PUT", "/rpc", None, None),
        ("GET", "/users/me", None, None),
        ("GET", "/users/me", Some(token.as_str()), None),
        ("GET", "/users/%ff", Some(token.as_str()), None),
        ("POST", "/auth/login", None, Some(login.clone())),
        ("POST", "/rpc", None, Some("{".to_owned())),
        ("POST", "/rpc", Some("bad"), Some("{}".to_owned())),
    ] {
        let response = gateway.rest(method, path, token, body.map(Into::into)).await;
        let headers = response.headers();
        assert_eq!(
            (&headers["cache-control"], &headers["x-content-type-options"]),
            (&"no-store".parse().unwrap(), &"nosniff".parse().unwrap()),
            "{method} {path}"
        );
    }
    let (_, headers) = from_page(&gateway, "OPTIONS", "/rpc", "https://evil.example").await;
    assert_eq!(headers["cache-control"], "no-store");
}
