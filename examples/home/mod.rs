//! The store that an example works on: a file, or `http://host:port/prefix` of an Elasticsearch.

use std::path::Path;
use std::time::Duration;

use doorward::store::Store;
use doorward::store::elastic::{ElasticConfig, ElasticStore, Url};
use doorward::store::sqlite::SqliteStore;

/// An opened store.
pub enum Home {
    /// In a file.
    Sqlite(Box<SqliteStore>),
    /// In a cluster.
    Elastic(Box<ElasticStore>),
}

impl Home {
    /// Opens the store that a text names.
    pub async fn open(text: &str) -> Result<Self, Box<dyn std::error::Error>> {
        if !text.starts_with("http") {
            return Ok(Self::Sqlite(Box::new(SqliteStore::open(Path::new(text))?)));
        }
        let mut url: Url = text.parse()?;
        let prefix = url.path().trim_matches('/').to_owned();
        url.set_path("");
        let config = ElasticConfig {
            nodes: vec![url],
            credentials: None,
            ca_file: None,
            prefix,
            shards: 1,
            connect_timeout: Duration::from_millis(500),
            request_timeout: Duration::from_secs(2),
            operation: Duration::from_millis(4_500),
            start_patience: Duration::from_secs(30),
        };
        Ok(Self::Elastic(Box::new(ElasticStore::open(&config).await?)))
    }

    /// The store.
    #[allow(dead_code, reason = "one of the examples tells the homes apart")]
    pub fn store(&self) -> &dyn Store {
        match self {
            Self::Sqlite(store) => &**store,
            Self::Elastic(store) => &**store,
        }
    }
}
