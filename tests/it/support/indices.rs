//! Indices of a test's own, on the Elasticsearch that all tests share or on another.

use std::time::Duration;

use doorward::store::elastic::{ElasticConfig, Url};
use serde_json::Value;

use super::elastic::elastic_url;

/// A prefix that nobody else uses; its indices are deleted on drop.
pub struct Indices {
    /// Where they are, in the form of ES_URL.
    pub url: String,
    /// What the names of the indices begin with.
    pub prefix: String,
    /// Primary shards of the users.
    pub shards: usize,
}

impl Indices {
    /// A new one on the shared server.
    pub fn new() -> Self {
        Self::at(elastic_url(), 1)
    }

    /// A new one on other servers, whose users have so many primary shards.
    pub fn at(url: String, shards: usize) -> Self {
        Self { url, prefix: format!("test-{}", &uuid::Uuid::new_v4().simple().to_string()[..16]), shards }
    }

    /// Settings of a store in these indices.
    pub fn config(&self) -> ElasticConfig {
        self.config_at(&self.url)
    }

    /// Settings of a store in these indices by another way to them.
    pub fn config_at(&self, url: &str) -> ElasticConfig {
        ElasticConfig {
            nodes: url.split(',').map(|url| Url::parse(url).expect("a server has a URL")).collect(),
            credentials: None,
            ca_file: None,
            prefix: self.prefix.clone(),
            shards: self.shards,
            connect_timeout: Duration::from_millis(500),
            request_timeout: Duration::from_secs(2),
            operation: Duration::from_millis(4_500),
            start_patience: Duration::from_secs(30),
        }
    }

    /// What the server answers to a request that is not a gateway's, which it must do.
    pub async fn ask(&self, method: &str, path: &str, body: Value) -> Value {
        let request = reqwest::Client::new().request(method.parse().expect("a method"), format!("{}/{path}", self.url));
        let request = if body.is_null() { request } else { request.json(&body) };
        let answer = request.send().await.expect("the server answers");
        let (status, text) = (answer.status(), answer.text().await.expect("text"));
        assert!(status.is_success(), "{method} {path}: {status} {text}");
        serde_json::from_str(&text).expect("it answers in JSON")
    }

    /// The name of one of them, such as `users`, as the first gateway makes it.
    pub fn first(&self, kind: &str) -> String {
        format!("{}-{kind}-000001", self.prefix)
    }

    /// The names of all that there are, in order.
    pub async fn names(&self) -> Vec<String> {
        let all = format!("_cat/indices/{}-*?h=index&s=index&format=json&expand_wildcards=all", self.prefix);
        let all = self.ask("GET", &all, Value::Null).await;
        let name = |index: &Value| index["index"].as_str().expect("an index has a name").to_owned();
        all.as_array().expect("a list").iter().map(name).collect()
    }

    /// Makes everything that is written to one of them, such as `users`, visible to searches.
    pub async fn refresh(&self, kind: &str) {
        let url = format!("{}/{}-{kind}/_refresh", self.url, self.prefix);
        reqwest::Client::new().post(url).send().await.unwrap().error_for_status().unwrap();
    }
}

impl Drop for Indices {
    fn drop(&mut self) {
        let url = format!("{}/{}-*?expand_wildcards=all", self.url.split(',').next().expect("a server"), self.prefix);
        // A thread, since a runtime cannot be blocked on from within itself.
        let delete = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async { reqwest::Client::new().delete(url).send().await.map_err(std::io::Error::other) })
        });
        // What cannot be deleted goes with the server.
        let _ = delete.join();
    }
}
