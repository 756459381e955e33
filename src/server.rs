//! The gateway as a whole: opened, listening, and brought to an orderly end.
//!
//! The accept loop is our own: it puts a deadline on half-sent heads and tracks upgraded sockets, which
//! `axum::serve` does not.

pub mod health;
mod http;
mod rest;
mod upgrade;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper::{Method, Request};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::hashing::{Hasher, HashingOptions, Pepper};
use crate::auth::password::Policy;
use crate::auth::token::{TokenOptions, Tokens};
use crate::clock::Clock;
use crate::config::Config;
use crate::connection;
use crate::data_dir::{DataDir, DataDirError, Lock};
use crate::directory::{self, Directory};
use crate::rpc::cursor::CursorKey;
use crate::rpc::{Context, Rpc};
use crate::sessions::{Presence, Sockets};
use crate::store::sqlite::SqliteStore;
use crate::store::{Store, StoreError};

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
    #[error("DOORWARD_LISTEN: cannot listen on {address}: {cause}")]
    Listen {
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
    data_dir: PathBuf,
    accepting: JoinHandle<()>,
    following: JoinHandle<()>,
    _lock: Lock,
}

impl Server {
    /// Opens the data folder, the store and the port, and begins to serve.
    pub async fn start(config: Config, clock: Clock) -> Result<Self, StartError> {
        let data_dir = DataDir::open(&config.data_dir)?;
        let lock = data_dir.lock()?;
        // The port first: a wrong one is told before a database or a secret is made.
        let address = config.listen;
        let listener = TcpListener::bind(address).await.map_err(|cause| StartError::Listen { address, cause })?;
        let address = listener.local_addr().map_err(|cause| StartError::Listen { address, cause })?;
        let store = open_store(&data_dir)?;
        let context = Arc::new(build(config, clock, &data_dir, store.clone())?);
        let seq = store.position().await?.numbers.first().copied().unwrap_or(0);
        let following = tokio::spawn(directory::follow(context.directory.clone(), store, seq));

        let timeouts = &context.config.timeouts;
        let connection = connection::Options {
            message_bytes: context.config.limits.message_bytes,
            calls_in_flight: context.config.limits.calls_in_flight,
            sign_in: Some(timeouts.sign_in),
            ping: timeouts.ping,
            pong: timeouts.pong,
            write: timeouts.write,
        };
        let app = Arc::new(App {
            rpc: Arc::new(Rpc::new(context)),
            sockets: Arc::default(),
            connection: Arc::new(connection),
            last_check: health::LastCheck::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        });
        let accepting = tokio::spawn(accept(listener, app.clone()));
        Ok(Self {
            app,
            address,
            data_dir: std::path::absolute(data_dir.path()).unwrap_or_else(|_| data_dir.path().to_owned()),
            accepting,
            following,
            _lock: lock,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The folder it serves.
    pub fn data_dir(&self) -> &std::path::Path {
        &self.data_dir
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
        if tokio::time::timeout(drain, self.app.tasks.wait()).await.is_err() {
            tracing::warn!("some connections did not end within {} s and are cut off", drain.as_secs());
        }
        self.following.abort();
        let hasher = context.clone();
        let _ = tokio::task::spawn_blocking(move || hasher.hasher.close()).await;
        context.store.close().await;
    }
}

/// The secret from the settings, or the one in the data folder.
pub fn secret(given: Option<&SecretString>, data_dir: &DataDir, file: &str) -> Result<SecretString, DataDirError> {
    given.map_or_else(|| data_dir.secret(file), |secret| Ok(secret.clone()))
}

/// Opens the embedded store of a folder.
pub fn open_store(data_dir: &DataDir) -> Result<Arc<dyn Store>, StartError> {
    let path = data_dir.database();
    let store = SqliteStore::open(&path).map_err(|error| StartError::Store(format!("{}: {error}", path.display())))?;
    Ok(Arc::new(store))
}

/// Puts together what handlers need.
pub fn build(config: Config, clock: Clock, data_dir: &DataDir, store: Arc<dyn Store>) -> Result<Context, StartError> {
    let jwt_secret = secret(config.jwt_secret.as_ref(), data_dir, "jwt.secret")?;
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
        secret: jwt_secret.expose_secret().as_bytes().to_vec().into(),
        issuer: config.token_issuer.clone(),
        audience: config.token_audience.clone(),
        lifetime: config.token_life,
    };
    let presence = Arc::new(Presence::default());
    Ok(Context {
        directory: Arc::new(Directory::new(store.clone(), presence.clone())),
        cursors: CursorKey::derive(jwt_secret.expose_secret().as_bytes()),
        tokens: Tokens::new(tokens, clock.clone()),
        hasher: hasher.map_err(StartError::Hashing)?,
        policy: Arc::new(policy),
        node: uuid::Uuid::new_v4().simple().to_string()[..12].to_owned(),
        presence,
        store,
        clock,
        config,
    })
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

/// Serves the requests of one connection, until it ends or is upgraded.
async fn serve(stream: TcpStream, address: SocketAddr, routes: axum::Router, app: Arc<App>) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let origin = Arc::new(http::Origin::new(address.ip()));
    let (routes, calls) = (TowerToHyperService::new(routes), app.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(origin.clone());
        let (routes, app) = (routes.clone(), calls.clone());
        async move {
            if request.uri().path() == "/rpc" && request.method() == Method::POST {
                return Ok(http::rpc(&app, request).await);
            }
            routes.call(request).await
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(app.rpc.context.config.timeouts.head)
        .max_buf_size(64 << 10)
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
