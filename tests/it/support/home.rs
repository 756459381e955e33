//! Where gateways in processes of their own keep their users, for as long as the home lives.

use std::path::PathBuf;
use std::sync::Arc;

use doorward::data_dir::DataDir;
use doorward::store::Store;
use doorward::store::elastic::ElasticStore;
use doorward::store::sqlite::SqliteStore;
use tempfile::TempDir;
use tokio::process::Command;

use super::{Indices, Process, SECRETS, on_elasticsearch};

/// A data folder or indices.
pub struct Home {
    folder: TempDir,
    indices: Option<Indices>,
}

impl Home {
    /// A data folder.
    pub fn embedded() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder can be made"), indices: None }
    }

    /// These indices.
    pub fn elastic(indices: Indices) -> Self {
        Self { indices: Some(indices), ..Self::embedded() }
    }

    /// The one that this run of the tests is about.
    pub fn of_this_run() -> Self {
        if on_elasticsearch() { Self::elastic(Indices::new()) } else { Self::embedded() }
    }

    /// The indices, without what else belongs to this home.
    pub fn into_indices(self) -> Indices {
        self.indices.expect("the users are in Elasticsearch")
    }

    /// Whether the users are in Elasticsearch.
    pub fn is_elastic(&self) -> bool {
        self.indices.is_some()
    }

    /// The data folder, which is not made where the users are in Elasticsearch.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// What signs its tokens and peppers its hashes.
    pub fn secrets(&self) -> Vec<String> {
        if self.is_elastic() {
            return SECRETS.map(|(_, secret)| secret.to_owned()).to_vec();
        }
        let files = ["jwt.secret", "password.pepper"].map(|name| self.data().join(name));
        files.map(|file| std::fs::read_to_string(file).expect("the gateway has made it")).to_vec()
    }

    /// The binary, told of this home and these settings, which win.
    pub fn command(&self, settings: &[(&str, &str)]) -> Command {
        self.told(Process::command(&self.data(), &[]), settings)
    }

    /// A command that becomes the binary after this one, told of the same.
    pub fn command_within(&self, before: Command, settings: &[(&str, &str)]) -> Command {
        self.told(Process::command_within(before, &self.data(), &[]), settings)
    }

    fn told(&self, mut command: Command, settings: &[(&str, &str)]) -> Command {
        if let Some(indices) = &self.indices {
            command.envs(SECRETS).env("ES_URL", &indices.url).env("DOORWARD_INDEX_PREFIX", &indices.prefix);
            command.env("DOORWARD_ES_SHARDS", indices.shards.to_string());
        }
        command.envs(settings.iter().copied());
        command
    }

    /// A gateway with these settings.
    pub async fn start(&self, settings: &[(&str, &str)]) -> Process {
        let mut command = self.command(settings);
        command.stderr(std::process::Stdio::null());
        Process::spawn(command).await
    }

    /// The users themselves, beside whatever gateways there are.
    pub async fn store(&self) -> Arc<dyn Store> {
        match &self.indices {
            None => {
                let data = DataDir::open(&self.data()).expect("the folder can be made");
                Arc::new(SqliteStore::open(&data.database()).expect("the database opens"))
            }
            Some(indices) => Arc::new(ElasticStore::open(&indices.config()).await.expect("the indices open")),
        }
    }
}
