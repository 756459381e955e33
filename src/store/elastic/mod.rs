//! Elasticsearch as the home of the users, for any number of gateways at once.
//!
//! It has no transactions and may lose an answer, so what must hold among documents is kept by compare-and-set: see
//! `documents` for writes, `emails` for addresses, `admins` for the last admin, `changes` for the feed. Only what a
//! bare server of version 8.8 or later has is used; texts are folded here, so that all versions agree.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
pub use elasticsearch::http::Url;
use quick_cache::sync::Cache;
use secrecy::SecretString;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use uuid::Uuid;

use self::changes::Watch;
use self::checkpoint::Checkpoint;
use self::client::{Client, Deadline};
use self::document::UserDocument;
use self::documents::Found;
pub use self::error::OpenError;
use self::freshness::{Freshness, Furthest, Paced, Shown};
use self::index::{Index, Names};
pub use self::migrate::{Migration, migrate};
use self::ready::Holds;
pub use self::rebuild::Rebuild;
use self::sessions::SessionDocument;
use super::{
    Changes, Failing, ListQuery, Page, PasswordChange, PasswordHash, Position, SearchPage, SearchQuery, Store,
    StoreError, Written,
};
use crate::users::filter::Filter;
use crate::users::{Email, Session, User, Username};

mod admins;
mod bulk;
mod changes;
mod checkpoint;
mod client;
mod document;
mod documents;
mod emails;
mod error;
mod finding;
mod former;
mod freshness;
mod index;
mod layout;
mod list;
mod migrate;
mod moving;
mod query;
mod ready;
mod rebuild;
mod sessions;
mod shape;
mod users;

/// The version of mappings and documents that this program writes.
const SCHEMA: u32 = 2;
/// The most primary shards that the users can have.
pub(crate) const SHARDS_MAX: usize = 64;
/// The longest that one step of opening or migrating may take, e.g. making an index.
const STEP: Duration = Duration::from_secs(60);
/// How many users that were read to be replaced are kept until then: one for each change under way, or two.
const TO_REPLACE: usize = 256;
/// The setting that names certificates of an authority.
pub(crate) const CA_FILE: &str = "DOORWARD_ES_CA_FILE";
/// The pause after which a write that a migration holds is tried again, at most.
const HOLD: Duration = Duration::from_millis(100);
/// How often an unreachable cluster is tried again at the start.
const START_PAUSE: Duration = Duration::from_secs(1);

/// Which cluster, and how to reach it.
#[derive(Debug, Clone)]
pub struct ElasticConfig {
    /// Its nodes; at least one.
    pub nodes: Vec<Url>,
    /// How to sign in; `None` where nobody has to.
    pub credentials: Option<ElasticCredentials>,
    /// Certificates, in PEM form, of an authority that is trusted besides the known ones.
    pub ca_file: Option<PathBuf>,
    /// What the names of all indices begin with.
    pub prefix: String,
    /// Primary shards of the users, when their index is made.
    pub shards: usize,
    /// The longest to wait for a connection.
    pub connect_timeout: Duration,
    /// The longest to wait for an answer.
    pub request_timeout: Duration,
    /// The longest that an operation may take, in whatever requests: see [`super::operation_within`].
    pub operation: Duration,
    /// How long the start waits for a cluster that does not answer.
    pub start_patience: Duration,
}

/// How to sign in to the cluster.
#[derive(Debug, Clone)]
pub enum ElasticCredentials {
    /// An API key in its encoded form.
    ApiKey(SecretString),
    /// A user's.
    Basic {
        /// Their name.
        username: String,
        /// Their password.
        password: SecretString,
    },
}

/// The store in an Elasticsearch cluster.
pub struct ElasticStore {
    /// For calls.
    client: Client,
    /// For the feed, which calls must not keep waiting.
    feed: Client,
    names: Names,
    operation: Duration,
    freshness: Freshness,
    /// Users as they were read to be replaced, by the key of the name.
    to_replace: Cache<String, Arc<Found<UserDocument>>>,
    /// Sessions as they were read to be replaced.
    sessions_to_replace: Cache<Uuid, Arc<Found<SessionDocument>>>,
    sessions_shown: Paced,
    /// For the feed.
    shown: Shown,
    /// How far the users are final at least.
    furthest: Furthest,
    /// The users index as it was last seen behind its alias.
    users: RwLock<Arc<Index>>,
    /// What `changed_elsewhere` has seen.
    watch: Mutex<Watch>,
    /// Up to where ended sessions were looked for; `None` before the first time.
    sessions_seen: Mutex<Option<Checkpoint>>,
    /// What the sessions have written, and when the tail has looked.
    sessions_looked: watch::Sender<Option<(Instant, Checkpoint)>>,
    /// Since when writes are held, as far as checks have seen.
    holds: Holds,
}

impl ElasticStore {
    /// Opens the indices, or makes them where there are none yet. Waits for a cluster that does not answer.
    pub async fn open(config: &ElasticConfig) -> Result<Self, OpenError> {
        let client = Client::new(config).map_err(OpenError::Setting)?;
        let names = Names::new(&config.prefix);
        let patience = Deadline::within(config.start_patience);
        let users = loop {
            match layout::open(&client, &names, config.shards).await {
                Ok(users) => break users,
                Err(OpenError::Unavailable(cause)) if patience.left() > START_PAUSE => {
                    tracing::warn!(cause, "waiting for Elasticsearch");
                    tokio::time::sleep(START_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        };
        let users = RwLock::new(Arc::new(users));
        Ok(Self {
            feed: client.apart(),
            client,
            names,
            operation: config.operation,
            freshness: Freshness::new(),
            shown: Shown::default(),
            furthest: Furthest::default(),
            to_replace: Cache::new(TO_REPLACE),
            sessions_to_replace: Cache::new(TO_REPLACE),
            sessions_shown: Paced::default(),
            users,
            watch: Mutex::default(),
            sessions_seen: Mutex::default(),
            sessions_looked: watch::Sender::default(),
            holds: Holds::default(),
        })
    }

    /// When an operation that begins now gives up.
    fn deadline(&self) -> Deadline {
        Deadline::within(self.operation)
    }

    /// The users index of this name, which is behind the alias now.
    async fn users_index(&self, name: &str, deadline: Deadline) -> Result<Arc<Index>, StoreError> {
        let known = self.users.read().unwrap_or_else(PoisonError::into_inner).clone();
        if known.name == name {
            return Ok(known);
        }
        let index = self.client.index(index::Kind::Users, name, deadline).await;
        let index = index.map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let index = Arc::new(index.ok_or_else(|| StoreError::Unavailable("the users index is gone".to_owned()))?);
        *self.users.write().unwrap_or_else(PoisonError::into_inner) = index.clone();
        Ok(index)
    }
}

#[async_trait]
impl Store for ElasticStore {
    async fn user_create(&self, user: User, password: PasswordHash) -> Result<Written, StoreError> {
        self.create(&user, &password, self.deadline()).await
    }

    async fn user_replace(&self, user: User, password: PasswordChange) -> Result<Written, StoreError> {
        self.replace(&user, &password, self.deadline()).await
    }

    async fn user_get(&self, username: &Username) -> Result<Option<Arc<User>>, StoreError> {
        self.get(username, self.deadline()).await
    }

    async fn user_get_to_replace(&self, username: &Username) -> Result<Option<Arc<User>>, StoreError> {
        self.get_to_replace(username, self.deadline()).await
    }

    async fn user_get_many(&self, usernames: &[Username]) -> Result<Vec<Arc<User>>, StoreError> {
        self.get_many(usernames, self.deadline()).await
    }

    async fn user_get_by_email(&self, email: &Email) -> Result<Option<Arc<User>>, StoreError> {
        self.get_by_email(email, self.deadline()).await
    }

    async fn password_get(&self, username: &Username) -> Result<Option<PasswordHash>, StoreError> {
        self.password(username, self.deadline()).await
    }

    async fn password_upgrade(
        &self,
        username: &Username,
        old: PasswordHash,
        new: PasswordHash,
    ) -> Result<(), StoreError> {
        self.upgrade_password(username, &old, &new, self.deadline()).await
    }

    async fn user_clear_away(&self, username: &Username) -> Result<(), StoreError> {
        self.clear_away_reservations(username, self.deadline()).await
    }

    async fn user_list(&self, query: ListQuery) -> Result<Page, StoreError> {
        self.list(&query, self.deadline()).await
    }

    async fn user_count(&self, filter: Option<Filter>) -> Result<u64, StoreError> {
        self.count(filter.as_ref(), self.deadline()).await
    }

    async fn user_search(&self, query: SearchQuery) -> Result<SearchPage, StoreError> {
        self.search(&query, self.deadline()).await
    }

    async fn position(&self) -> Result<Position, StoreError> {
        let written = self.written(&self.client, self.deadline()).await?;
        self.freshness.reached(&written);
        Ok(written.position)
    }

    async fn start(&self) -> Result<Position, StoreError> {
        let now = self.position().await?;
        Ok(Position { numbers: vec![0; now.numbers.len()], ..now })
    }

    async fn changes_after(&self, position: &Position, limit: usize) -> Result<Changes, StoreError> {
        self.changes(position, limit, self.deadline()).await
    }

    fn pace(&self, took: Duration) -> Duration {
        changes::pace(took)
    }

    async fn changed_elsewhere(&self) {
        self.wait_for_changes().await;
    }

    async fn session_create(&self, session: Session) -> Result<(), StoreError> {
        self.create_session(&session, self.deadline()).await
    }

    async fn sessions_make_room(&self, session: &Session, max: usize) -> Result<Vec<Session>, StoreError> {
        self.make_room(session, max, self.deadline()).await
    }

    async fn session_get_to_replace(&self, id: Uuid) -> Result<Option<Session>, StoreError> {
        self.session_to_replace(id, self.deadline()).await
    }

    async fn session_get(&self, id: Uuid) -> Result<Option<Session>, StoreError> {
        self.session(id, self.deadline()).await
    }

    async fn session_replace(&self, session: Session) -> Result<(), StoreError> {
        self.replace_session(&session, self.deadline()).await
    }

    async fn sessions_of(&self, user: &Username) -> Result<Vec<Session>, StoreError> {
        self.open_sessions(user, self.deadline()).await
    }

    async fn sessions_ended(&self) -> Result<Vec<Session>, StoreError> {
        self.ended_sessions(self.deadline()).await
    }

    async fn session_ended_elsewhere(&self) {
        self.wait_for_ended_sessions().await;
    }

    async fn check(&self) -> Vec<Failing> {
        self.failing(self.deadline()).await
    }

    async fn close(&self) {}
}
