//! Each fault, before a server that counts what it applied.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{HeaderMap, Method, Uri};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;

use super::{Fault, FaultProxy, When};

/// A proxy before a server that answers with what it was asked.
struct Rig {
    proxy: FaultProxy,
    applied: Arc<AtomicUsize>,
    http: reqwest::Client,
}

impl Rig {
    async fn start() -> Self {
        let applied = Arc::new(AtomicUsize::new(0));
        let count = applied.clone();
        let echo = move |method: Method, uri: Uri, headers: HeaderMap, body: String| async move {
            count.fetch_add(1, SeqCst);
            ([("x-kept", headers["x-kept"].clone())], format!("{method} {uri} {body}"))
        };
        let echo = TowerToHyperService::new(Router::new().fallback(echo));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = FaultProxy::start(listener.local_addr().unwrap()).await;
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), echo.clone()));
            }
        });
        Self { proxy, applied, http: reqwest::Client::new() }
    }

    async fn put(&self, path: &str) -> reqwest::Result<reqwest::Response> {
        self.http.put(format!("{}{path}", self.proxy.url())).header("x-kept", "yes").body("thing").send().await
    }

    fn applied(&self) -> usize {
        self.applied.load(SeqCst)
    }
}

#[tokio::test]
async fn without_a_rule_requests_and_answers_pass_whole() {
    let rig = Rig::start().await;
    let answer = rig.put("/a?b=c").await.unwrap();
    assert_eq!(answer.headers()["x-kept"], "yes");
    assert_eq!(answer.text().await.unwrap(), "PUT /a?b=c thing");
    assert_eq!((rig.applied(), rig.proxy.requests()), (1, 1));
}

#[tokio::test]
async fn a_cut_falls_before_or_after_the_server_applied_it() {
    let rig = Rig::start().await;
    let before = rig.proxy.rule(|_, path| path == "/before", When::Always, Fault::CutBefore);
    let after = rig.proxy.rule(|method, path| method == Method::PUT && path == "/after", When::Always, Fault::CutAfter);
    rig.put("/before").await.unwrap_err();
    assert_eq!(rig.applied(), 0);
    rig.put("/after").await.unwrap_err();
    assert_eq!((rig.applied(), before.seen(), after.seen()), (1, 1, 1));
    rig.put("/other").await.unwrap();
    assert_eq!((rig.applied(), rig.proxy.requests()), (2, 3));
}

#[tokio::test]
async fn a_rule_acts_so_many_times_or_by_chance_until_it_is_cleared() {
    let rig = Rig::start().await;
    let always = rig.proxy.rule(|_, _| true, When::Always, Fault::Answer(404, "text/html", "<html>"));
    rig.proxy.rule(|_, _| true, When::Times(2), Fault::Answer(429, "application/json", "{}"));
    let never = rig.proxy.rule(|_, _| true, When::Chance(0.0), Fault::CutBefore);
    for status in [429, 429, 404] {
        assert_eq!(rig.put("/").await.unwrap().status(), status);
    }
    let answer = rig.put("/").await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/html");
    assert_eq!(answer.text().await.unwrap(), "<html>");
    assert_eq!((rig.applied(), always.seen(), never.seen()), (0, 2, 0));
    rig.proxy.clear();
    assert_eq!(rig.put("/").await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_delay_is_before_or_after_the_server_applied_it() {
    let rig = Rig::start().await;
    let delay = Duration::from_millis(200);
    for fault in [Fault::DelayRequest(delay), Fault::DelayAnswer(delay)] {
        rig.proxy.rule(|_, _| true, When::Times(1), fault);
        let began = Instant::now();
        assert_eq!(rig.put("/").await.unwrap().status(), 200);
        assert!(began.elapsed() >= delay);
    }
}

#[tokio::test]
async fn a_throttled_answer_comes_whole_but_slowly_after_its_head() {
    let rig = Rig::start().await;
    rig.proxy.rule(|_, _| true, When::Always, Fault::Throttle(50));
    let began = Instant::now();
    let answer = rig.put("/slow").await.unwrap();
    assert_eq!((answer.status().as_u16(), rig.applied()), (200, 1));
    let head = began.elapsed();
    assert_eq!(answer.text().await.unwrap(), "PUT /slow thing");
    let pace = Duration::from_millis(20);
    assert!(head < began.elapsed() && began.elapsed() >= 15 * pace, "{head:?} of {:?}", began.elapsed());
    // Who does not wait for the end is not waited for.
    let impatient = async { rig.put("/slow").await.unwrap().text().await };
    assert!(tokio::time::timeout(pace, impatient).await.is_err());
}

#[tokio::test]
async fn a_held_request_waits_for_its_release_and_outlives_its_client() {
    let rig = Rig::start().await;
    let rule = rig.proxy.rule(|_, path| path == "/held", When::Times(2), Fault::Hold);
    let release = async {
        rule.wait_for(1).await;
        rig.put("/other").await.unwrap();
        assert_eq!(rig.applied(), 1);
        let impatient = tokio::time::timeout(Duration::from_millis(100), rig.put("/held")).await;
        assert!(impatient.is_err() && rule.seen() == 2);
        rule.release();
    };
    let (held, ()) = tokio::join!(rig.put("/held"), release);
    assert_eq!(held.unwrap().status(), 200);
    let all = async {
        while rig.applied() < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(super::PATIENCE, all).await.unwrap();
}

#[tokio::test]
async fn connections_are_refused_until_it_listens_again_on_the_same_port() {
    let mut rig = Rig::start().await;
    let url = rig.proxy.url();
    rig.put("/").await.unwrap();
    rig.proxy.refuse().await;
    assert!(rig.put("/").await.unwrap_err().is_connect());
    rig.proxy.accept().await;
    assert_eq!(rig.proxy.url(), url);
    rig.put("/").await.unwrap();
    assert_eq!((rig.applied(), rig.proxy.requests()), (2, 2));
}
