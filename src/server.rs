//! The gateway as a whole: opened, listening, and brought to an orderly end.
//!
//! The accept loop is our own: it puts a deadline on half-sent heads and tracks upgraded sockets, which
//! `axum::serve` does not.

pub mod health;
mod http;
mod jwks;
mod metrics;
pub mod origin;
pub mod proxies;
mod rest;
mod starting;
mod stream;
mod upgrade;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{CONNECTION, HeaderValue};
use hyper::body::{Body, Incoming};
use hyper::service::{Service, service_fn};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::hashing::{Hasher, HashingOptions, Pepper};
use crate::auth::keys::{Key, Keys};
use crate::auth::password::Policy;
use crate::auth::refresh::RefreshKey;
use crate::auth::seals::Secrets;
use crate::auth::throttle::Throttle;
use crate::auth::token::{TokenOptions, Tokens};
use crate::clock::Clock;
use crate::config::{Config, Timeouts};
use crate::connection;
use crate::data_dir::{DataDir, DataDirError, Lock};
use crate::directory::Directory;
use crate::feed::{Feed, tail};
use crate::logins::Logins;
use crate::rpc::cursor::CursorKey;
use crate::rpc::{Context, Rpc};
use crate::sessions::{Presence, Sockets};
use crate::store::elastic::ElasticStore;
use crate::store::operation_within;
use crate::store::sqlite::{SqliteOptions, SqliteStore};
use crate::store::{Store, StoreError};
use origin::Judged;
use starting::Starting;
use stream::{Patience, Progress, Stream};

/// How long to wait before accepting again when the system refuses, e.g. out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the gateway did not start: one line.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The store.
    #[error("store: {0}")]
    Store(String),
    /// The list of refused passwords.
    #[error("DOORWARD_PASSWORD_LIST: {0}")]
    PasswordList(String),
    /// The address to listen on.
    #[error("{setting}: cannot listen on {address}: {cause}")]
    Listen {
        /// The setting that names it.
        setting: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The threads that hash passwords.
    #[error("DOORWARD_HASH_THREADS: cannot start: {0}")]
    Hashing(std::io::Error),
}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        Self::Store(error.to_string())
    }
}

/// What the routes need, built once.
pub struct App {
    /// The dispatcher.
    pub rpc: Arc<Rpc>,
    /// Every socket of this node.
    pub sockets: Arc<Sockets>,
    /// The bounds of each.
    pub connection: Arc<connection::Options>,
    /// The last answer of `/readyz` about the store.
    pub last_check: health::LastCheck,
    /// Tasks that serve connections and sockets.
    pub tasks: TaskTracker,
    /// Cancelled when the gateway begins to stop.
    pub stopping: CancellationToken,
}

/// A gateway that serves.
pub struct Server {
    app: Arc<App>,
    address: SocketAddr,
    metrics: Option<SocketAddr>,
    home: String,
    accepting: JoinHandle<()>,
    following: [JoinHandle<()>; 2],
    _lock: Option<Lock>,
}

impl Server {
    /// Opens the data folder, the store and the port, and begins to serve.
    pub async fn start(config: Config, clock: Clock) -> Result<Self, StartError> {
        let data_dir = match config.elastic {
            None => Some(DataDir::open(&config.data_dir)?),
            Some(_) => None,
        };
        let lock = data_dir.as_ref().map(DataDir::lock).transpose()?;
        // The port first: a wrong one is told before a database or a secret is made.
        let (listener, address) = bind("DOORWARD_LISTEN", config.listen).await?;
        let metrics = match config.metrics.0 {
            Some(address) => Some(bind("DOORWARD_METRICS_LISTEN", address).await?),
            None => None,
        };
        if metrics.is_some() {
            crate::metrics::recorder();
        }
        // Asked whether it lives, it answers while it waits for its store.
        let starting = Starting::on(listener, &config.timeouts);
        let metrics = metrics.map(|(listener, address)| (Starting::on(listener, &config.timeouts), address));
        let (store, home) = open_store(&config, data_dir.as_ref()).await?;
        let stopping = CancellationToken::new();
        let feed = Arc::new(Feed::new(store.clone(), store.position().await?, stopping.clone()));
        let context = Arc::new(build(config, clock, data_dir.as_ref(), store, feed.clone())?);
        let (directory, known) = (context.directory.clone(), context.clone());
        let apply = move |user| {
            let directory = directory.clone();
            async move { directory.follow(&user).await }
        };
        let forget = move || {
            known.logins.forget();
            known.directory.forget();
        };
        let following_users = tokio::spawn(tail::follow(feed, apply, forget));
        // Nobody is served yet: of every session that will be known here, the end will be told.
        context.store.sessions_ended().await?;
        let directory = context.directory.clone();
        let following_sessions = tokio::spawn(context.logins.clone().follow(move |session| {
            let directory = directory.clone();
            // Where the user cannot be read now, the session ends without the reason.
            async move { drop(directory.account_since(&session.user, session.generation).await) }
        }));
        let following = [following_users, following_sessions];

        let timeouts = &context.config.timeouts;
        let connection = connection::Options {
            message_bytes: context.config.limits.message_bytes,
            calls_in_flight: context.config.limits.calls_in_flight,
            sign_in: Some(timeouts.sign_in),
            message: timeouts.message,
            ping: timeouts.ping,
            pong: timeouts.pong,
            write: timeouts.write,
            call: context.config.call_timeout,
        };
        let app = Arc::new(App {
            rpc: Arc::new(Rpc::new(context)),
            sockets: Arc::default(),
            connection: Arc::new(connection),
            last_check: health::LastCheck::default(),
            tasks: TaskTracker::new(),
            stopping,
        });
        let accepting = tokio::spawn(accept(starting.end().await, app.clone()));
        let metrics = match metrics {
            None => None,
            Some((starting, address)) => {
                app.tasks.spawn(metrics::serve(starting.end().await, app.clone()));
                Some(address)
            }
        };
        Ok(Self { app, address, metrics, home, accepting, following, _lock: lock })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens for scrapes; `None` when it keeps no metrics.
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// Where the users are kept, for people.
    pub fn home(&self) -> &str {
        &self.home
    }

    /// What the routes need: for tests that look inside.
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Stops: no new connections, calls under way are answered, sockets are told and closed, the store is closed.
    pub async fn stop(self) {
        self.app.stopping.cancel();
        let _ = self.accepting.await;
        let context = &self.app.rpc.context;
        let drain = context.config.timeouts.drain;
        self.app.sockets.drain(drain);
        self.app.tasks.close();
        let ended = async {
            self.app.tasks.wait().await;
            self.app.rpc.close().await;
        };
        if tokio::time::timeout(drain, ended).await.is_err() {
            tracing::warn!("some connections did not end within {} s and are cut off", drain.as_secs());
        }
        for following in &self.following {
            following.abort();
        }
        context.logins.close().await;
        let hasher = context.clone();
        let _ = tokio::task::spawn_blocking(move || hasher.hasher.close()).await;
        context.store.close().await;
    }
}

/// A listener, and where it listens: port 0 has become another.
async fn bind(setting: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let refused = |cause| StartError::Listen { setting, address, cause };
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let bound = listener.local_addr().map_err(refused)?;
    Ok((listener, bound))
}

/// The secret from the settings, or the one in the data folder. With a cluster the settings have it: see `config`.
pub fn secret(
    given: Option<&SecretString>,
    data_dir: Option<&DataDir>,
    file: &str,
) -> Result<SecretString, DataDirError> {
    match (given, data_dir) {
        (Some(secret), _) => Ok(secret.clone()),
        (None, Some(data_dir)) => data_dir.secret(file),
        (None, None) => unreachable!("`config` demands secrets where there is no data folder"),
    }
}

/// Opens the cluster of the settings, or else the embedded store of the folder. Says where the users are.
pub async fn open_store(config: &Config, data_dir: Option<&DataDir>) -> Result<(Arc<dyn Store>, String), StartError> {
    match (&config.elastic, data_dir) {
        (Some(elastic), _) => {
            let store = ElasticStore::open(elastic).await.map_err(|error| StartError::Store(error.to_string()))?;
            Ok((Arc::new(store), format!("Elasticsearch, indices {}-*", elastic.prefix)))
        }
        (None, Some(data_dir)) => {
            let path = data_dir.database();
            let store = SqliteStore::open_with(&path, SqliteOptions::within(operation_within(config.call_timeout)))
                .map_err(|error| StartError::Store(format!("{}: {error}", path.display())))?;
            Ok((Arc::new(store), data_dir.path().display().to_string()))
        }
        (None, None) => unreachable!("without a cluster there is a data folder"),
    }
}

/// Puts together what handlers need.
pub fn build(
    config: Config,
    clock: Clock,
    data_dir: Option<&DataDir>,
    store: Arc<dyn Store>,
    feed: Arc<Feed>,
) -> Result<Context, StartError> {
    let present = secret(config.jwt_secret.as_ref(), data_dir, "jwt.secret")?;
    let secrets = Secrets { present, accepted: config.jwt_accept_secret.clone() };
    let pepper = secret(config.password_pepper.as_ref(), data_dir, "password.pepper")?;
    let pepper =
        Pepper::new(pepper.expose_secret().as_bytes().to_vec()).expect("secrets are long enough: see `config`");
    let policy = Policy::load(config.password_min, config.password_list.as_deref())
        .map_err(|error| StartError::PasswordList(error.to_string()))?;
    let hasher = Hasher::start(HashingOptions {
        threads: std::num::NonZeroUsize::new(config.hash_threads),
        cost: config.bcrypt_cost,
        pepper,
        queue: config.hash_queue,
    });
    let tokens = TokenOptions {
        keys: token_keys(&config, &secrets),
        issuer: config.token_issuer.clone(),
        audience: config.token_audience.clone(),
        lifetime: config.token_life,
    };
    let presence = Arc::new(Presence::default());
    let node = uuid::Uuid::new_v4().simple().to_string()[..12].to_owned();
    let max_sessions = config.limits.sessions_per_user;
    let logins =
        Logins::new(store.clone(), presence.clone(), clock.clone(), node.clone(), config.sessions, max_sessions);
    let logins = Arc::new(logins);
    Ok(Context {
        refresh_key: RefreshKey::derive(&secrets),
        directory: Arc::new(Directory::new(store.clone(), feed.clone(), presence.clone(), logins.clone())),
        logins,
        cursors: CursorKey::derive(&secrets),
        tokens: Tokens::new(tokens, clock.clone()),
        hasher: Arc::new(hasher.map_err(StartError::Hashing)?),
        upgrading: Arc::default(),
        policy: Arc::new(policy),
        throttle: Throttle::new(config.throttle.clone(), clock.clone()),
        node,
        presence,
        feed,
        store,
        clock,
        config,
    })
}

/// The keys of access tokens: that of the file before the secret, and those accepted besides.
fn token_keys(config: &Config, secrets: &Secrets) -> Keys {
    let signing = config.jwt_key.as_ref().map_or_else(|| Key::hs256(&secrets.present), Key::ed25519);
    let accepted = config.jwt_accept_key.as_ref().map(Key::ed25519);
    Keys::new(signing, accepted.into_iter().chain(secrets.accepted.as_ref().map(Key::hs256)))
}

/// Accepts connections until the gateway stops.
async fn accept(listener: TcpListener, app: Arc<App>) {
    let routes = http::routes(app.clone());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = app.stopping.cancelled() => return,
        };
        match accepted {
            Ok((stream, address)) => {
                app.tasks.spawn(serve(stream, address, routes.clone(), app.clone()));
            }
            Err(error) => {
                // Out of descriptors, or a client that left before it was accepted.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Has the system end a connection whose other end has acknowledged nothing for so long: packets may get lost for good
/// while the system's own buffer takes whatever is written.
fn give_up_silent(io: &TcpStream, after: Duration) -> std::io::Result<()> {
    let ms = u32::try_from(after.as_millis()).unwrap_or(u32::MAX);
    Ok(rustix::net::sockopt::set_tcp_user_timeout(io, ms)?)
}

/// How long a connection waits for its client while it speaks HTTP.
fn patience(timeouts: &Timeouts) -> Patience {
    Patience { head: timeouts.head, idle: timeouts.keep_alive, rest: timeouts.body, write: timeouts.write }
}

/// Serves the requests of one connection, until it ends or is upgraded.
async fn serve(io: TcpStream, address: SocketAddr, routes: axum::Router, app: Arc<App>) {
    let timeouts = &app.rpc.context.config.timeouts;
    if io.set_nodelay(true).is_err() || give_up_silent(&io, timeouts.write + connection::CLOSE_TIMEOUT).is_err() {
        return;
    }
    let progress = Arc::new(Progress::default());
    let stream = Stream::new(io, patience(timeouts), progress.clone());
    let other_end = Arc::new(http::OtherEnd::new(address.ip(), progress.clone()));
    let (routes, calls) = (TowerToHyperService::new(routes), app.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        progress.begin(!request.body().is_end_stream());
        request.extensions_mut().insert(other_end.clone());
        let (routes, app, progress) = (routes.clone(), calls.clone(), progress.clone());
        async move {
            let mut response = answer(&app, routes, request).await?;
            if progress.answered() {
                // The next request cannot be told from the rest of this one's body.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .max_buf_size(64 << 10)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = &mut connection => {}
        () = app.stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// Answers one request.
async fn answer(
    app: &App,
    routes: TowerToHyperService<axum::Router>,
    request: Request<Incoming>,
) -> Result<http::HttpResponse, Infallible> {
    if let Some(response) = http::refuse_host(&request) {
        return Ok(response);
    }
    let Judged { allowed, answer } = app.rpc.context.config.allowed_origins.judge(&request);
    let mut response = match (answer, request.uri().path(), request.method()) {
        (Some(response), ..) => response,
        (None, "/rpc", &Method::POST) => http::rpc(app, request).await,
        (None, ..) => routes.call(request).await?,
    };
    origin::declare(&mut response, allowed);
    Ok(response)
}
