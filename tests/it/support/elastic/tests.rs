//! What a test may expect of the shared server, and of a locked node.

use serde_json::json;

use super::{ADMIN, Node, elastic_url, get};

#[tokio::test]
async fn the_shared_server_answers() {
    let health = get(format!("{}/_cluster/health", elastic_url())).await;
    assert_eq!(health["number_of_nodes"], 1, "{health}");
}

#[tokio::test]
async fn a_locked_node_lets_each_user_do_what_their_role_says_without_tls() {
    let password = "a long password";
    let node = Node::locked(password, &[("watcher", json!({"cluster": ["monitor"]}))]).await;
    let http = reqwest::Client::new();
    let health = http.get(format!("{}/_cluster/health", node.url()));
    let index = http.put(format!("{}/things", node.url()));
    for (request, user, status) in
        [(&health, "watcher", 200), (&health, "nobody", 401), (&index, "watcher", 403), (&index, ADMIN, 200)]
    {
        let request = request.try_clone().unwrap().basic_auth(user, Some(password));
        assert_eq!(request.send().await.unwrap().status(), status, "{user}");
    }
    assert_eq!(health.send().await.unwrap().status(), 401);
}
