//! What looks at many users keeps the store from nobody else.

use std::time::Duration;

use serde_json::json;

use crate::support::elastic::elastic_address;
use crate::support::proxy::{Fault, FaultProxy, When};
use crate::support::{Indices, TestClient, TestGateway};

#[tokio::test]
async fn r09_the_lists_and_searches_of_one_user_wait_for_each_other_and_not_those_of_others() {
    let (indices, proxy) = (Indices::new(), FaultProxy::start(elastic_address()).await);
    let gateway = TestGateway::over(indices.config_at(&proxy.url())).await;
    let (mut alice, mut bob) = (gateway.logged_in("alice").await, gateway.logged_in("bob").await);
    let is_scan = |_: &hyper::Method, path: &str| {
        path.contains("-users") && (path.contains("/_search") || path.contains("/_count"))
    };
    let scans = proxy.rule(is_scan, When::Always, Fault::Hold);
    let mut again = TestClient::reach(gateway.address, &alice.token).await.unwrap();
    for socket in [&mut alice, &mut again] {
        for _ in 0..5 {
            assert!(socket.begin("users.list", json!({"count": "exact"})).await);
            assert!(socket.begin("users.search", json!({"text": "alice"})).await);
        }
        socket.call("system.ping", json!({})).await.unwrap();
    }
    scans.wait_for(4).await;
    assert!(bob.begin("users.list", json!({})).await);
    scans.wait_for(5).await;
    assert_eq!(scans.seen(), 5);
    scans.release();
    for socket in [&mut alice, &mut again] {
        for _ in 0..10 {
            let reply = tokio::time::timeout(Duration::from_secs(20), socket.frame()).await.unwrap().unwrap();
            assert!(reply.get("result").is_some(), "{reply}");
        }
    }
    assert!(bob.frame().await.unwrap().get("result").is_some());
}
