//! Templates of the cluster, which are for other indices: they change nothing about ours, or are refused by name.

use serde_json::{Value, json};

use crate::start::{Place, assert_one};
use crate::support::{Indices, Process, SECRETS, TestClient};

/// A template over the prefix of a test; gone with it.
struct Template {
    url: String,
    indices: Indices,
}

impl Template {
    async fn put(api: &str, mut body: Value) -> Self {
        let indices = Indices::new();
        body["index_patterns"] = json!([format!("{}-*", indices.prefix)]);
        let path = format!("{api}/{}", indices.prefix);
        indices.ask("PUT", &path, body).await;
        Self { url: format!("{}/{path}", indices.url), indices }
    }

    fn settings(&self) -> Vec<(&str, &str)> {
        let own = [("ES_URL", self.indices.url.as_str()), ("DOORWARD_INDEX_PREFIX", self.indices.prefix.as_str())];
        SECRETS.into_iter().chain(own).chain([("DOORWARD_LOG", "error")]).collect()
    }

    /// A gateway makes its indices, and users can be written and found.
    async fn changes_nothing(&self) {
        let folder = tempfile::tempdir().unwrap();
        let gateway = Process::start(&folder.path().join("data"), &self.settings()).await;
        let mut alice = TestClient::connect(gateway.address, &[]).await;
        alice.register("alice").await;
        let found = alice.call("users.list", json!({"filter": {"username": {"eq": "alice"}}})).await.unwrap();
        assert_eq!(found["users"][0]["username"], "alice");
        TestClient::connect(gateway.address, &[]).await.login("alice").await;
    }

    /// Start and `migrate` are refused with a line that has this part, and nothing is left in the place of the indices.
    async fn is_refused(&self, part: &str) {
        for args in [&[][..], &["migrate"]] {
            let ended = Place::new().run(args, &self.settings()).await;
            let lines: Vec<String> = ended.stderr.lines().map(str::to_owned).collect();
            assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{part}: {lines:?}");
            assert_one(&lines, part);
            assert_eq!(self.indices.names().await, Vec::<String>::new(), "{part}");
        }
    }
}

impl Drop for Template {
    fn drop(&mut self) {
        let url = self.url.clone();
        // A thread, since a runtime cannot be blocked on from within itself.
        let delete = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async { reqwest::Client::new().delete(url).send().await.map_err(std::io::Error::other) })
        });
        let _ = delete.join();
    }
}

#[tokio::test]
async fn what_a_template_sets_for_other_indices_does_not_reach_ours() {
    for (name, template) in [
        ("default_pipeline", json!({"settings": {"index.default_pipeline": "nobody-has-made-it"}})),
        ("final_pipeline", json!({"settings": {"index.final_pipeline": "nobody-has-made-it"}})),
        ("max_result_window", json!({"settings": {"index.max_result_window": 5}})),
        ("durability", json!({"settings": {"index.translog.durability": "async"}})),
        ("refresh", json!({"settings": {"index.refresh_interval": "-1"}})),
        ("source", json!({"mappings": {"_source": {"enabled": false}}})),
        ("type", json!({"mappings": {"properties": {"ops": {"type": "text"}}}})),
        ("dynamic", json!({"mappings": {"dynamic": true, "date_detection": false}})),
    ] {
        eprintln!("{name}");
        let body = json!({"priority": 500, "template": template});
        Template::put("_index_template", body).await.changes_nothing().await;
    }
    let legacy = json!({"order": 9, "settings": {"index.default_pipeline": "nobody-has-made-it"}});
    Template::put("_template", legacy).await.changes_nothing().await;
}

#[tokio::test]
async fn what_cannot_be_kept_away_is_refused_with_its_name() {
    for (part, template) in [
        (
            "index.sort.field",
            json!({
                "settings": {"index.sort.field": "other"}, "mappings": {"properties": {"other": {"type": "keyword"}}},
            }),
        ),
        ("the field other", json!({"mappings": {"properties": {"other": {"type": "keyword"}}}})),
        ("_routing", json!({"mappings": {"_routing": {"required": true}}})),
        ("runtime", json!({"mappings": {"runtime": {"status": {"type": "keyword"}}}})),
        ("_source", json!({"mappings": {"_source": {"excludes": ["email"]}}})),
        (
            "index.analysis.",
            json!({"settings": {"index.analysis.analyzer.whitespace": {
                "type": "custom", "tokenizer": "standard",
            }}}),
        ),
    ] {
        Template::put("_index_template", json!({"priority": 500, "template": template})).await.is_refused(part).await;
    }
}

#[tokio::test]
async fn a_template_of_data_streams_over_the_prefix_is_named() {
    let template = Template::put("_index_template", json!({"priority": 500, "data_stream": {}})).await;
    let name = template.indices.prefix.clone();
    template.is_refused(&format!("matches with template [{name}] that creates data streams only")).await;
}

#[tokio::test]
async fn a_setting_that_ours_got_later_is_told_at_the_next_start() {
    let indices = Indices::new();
    let settings = [("ES_URL", indices.url.as_str()), ("DOORWARD_INDEX_PREFIX", indices.prefix.as_str())];
    let settings = [&SECRETS[..], &settings, &[("DOORWARD_LOG", "error")]].concat();
    let place = Place::new();
    Process::start(&place.data(), &settings).await.kill().await;
    let users = indices.first("users");
    let pipeline = json!({"index.default_pipeline": "somebody-has-set-it"});
    indices.ask("PUT", &format!("{users}/_settings"), pipeline).await;
    let part = format!("the index {users} has the setting index.default_pipeline = somebody-has-set-it");
    assert_one(&place.refused(&settings).await, &part);
}
