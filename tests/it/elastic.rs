//! The store on a real Elasticsearch when the way to it fails, and when many use it at once.

mod admins;
mod behind;
mod cuts;
mod doubt;
mod late;
mod lost;
mod outage;
mod overload;
mod races;
mod ready;
mod refreshes;
mod scans;
mod stale;
mod start;
mod starting;
mod templates;
mod told;

use std::time::Duration;

use doorward::store::elastic::{ElasticConfig, ElasticStore};
use serde_json::{Value, json};

use crate::support::Indices;
use crate::support::elastic::{elastic_address, elastic_url};
use crate::support::proxy::FaultProxy;

/// A gateway's store, and a proxy on its way to the server.
struct Faulty {
    proxy: FaultProxy,
    store: ElasticStore,
}

impl Faulty {
    /// One that soon loses patience, so that tests need not wait for it.
    async fn open(indices: &Indices) -> Self {
        Self::with_timeout(indices, Duration::from_millis(300)).await
    }

    async fn with_timeout(indices: &Indices, request_timeout: Duration) -> Self {
        let proxy = FaultProxy::start(elastic_address()).await;
        let config = ElasticConfig { request_timeout, ..indices.config_at(&proxy.url()) };
        Self { store: ElasticStore::open(&config).await.unwrap(), proxy }
    }
}

/// A store with nothing in its way.
async fn open(indices: &Indices) -> ElasticStore {
    ElasticStore::open(&indices.config()).await.unwrap()
}

/// Makes those who reserve an address and have not come for it look as if that was long ago.
async fn end_reservations(indices: &Indices) {
    let http = reqwest::Client::new();
    let emails = format!("{}/{}-emails", elastic_url(), indices.prefix);
    let answer = |request: reqwest::RequestBuilder| async move {
        request.send().await.unwrap().error_for_status().unwrap().json::<Value>().await.unwrap()
    };
    indices.refresh("emails").await;
    let pending = answer(http.get(format!("{emails}/_search?q=state:pending&size=10000"))).await;
    for hit in pending["hits"]["hits"].as_array().unwrap() {
        let old = json!({"doc": {"at": 0}});
        answer(http.post(format!("{emails}/_update/{}", hit["_id"].as_str().unwrap())).json(&old)).await;
    }
}
