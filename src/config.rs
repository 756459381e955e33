//! Every setting, read and checked once, all problems told together.
//!
//! Settings come from the environment, or from a file `.env` in the working directory beneath it. A name
//! that begins with `DOORWARD_` and is not listed here stops the start, so that a typing error cannot
//! silently leave a default in force. Values of secrets are never shown; each may come from a file instead.

mod env_file;
mod reader;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use secrecy::{ExposeSecret, SecretString};

use crate::auth::throttle;
use crate::authority::Authority;
use crate::server::origin::AllowedOrigins;
use crate::server::proxies::TrustedProxies;
use crate::store::elastic::{self, ElasticConfig, ElasticCredentials, Url};
use crate::store::operation_within;
use crate::users::session::Lifetimes;
use reader::{Reader, is_ours};

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where to listen: an address and port, or a name of this machine and a port, which is taken for its first IPv4 address.
struct Listen(SocketAddr);

impl FromStr for Listen {
    type Err = std::io::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let addresses: Vec<_> = text.to_socket_addrs()?.collect();
        let address = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
        address.copied().map(Self).ok_or_else(|| std::io::ErrorKind::NotFound.into())
    }
}

/// Where metrics are served; `None`, written `off`, keeps none.
#[derive(Debug, Clone, Copy)]
pub struct MetricsListen(pub Option<SocketAddr>);

impl FromStr for MetricsListen {
    type Err = std::io::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" { Ok(Self(None)) } else { Listen::from_str(text).map(|Listen(address)| Self(Some(address))) }
    }
}

/// Bounds that a client can run into; all of them are in `system.info`.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The largest message, in bytes.
    pub message_bytes: usize,
    /// The largest reply, in bytes.
    pub reply_bytes: usize,
    /// The most calls in a batch.
    pub batch_calls: usize,
    /// The most calls under way on one socket; beyond it the socket is not read.
    pub calls_in_flight: usize,
    /// The calls that one user, or one address without sign-in, may make in a second.
    pub calls_per_second: u32,
    /// How many of them may come at once.
    pub calls_burst: u32,
    /// The most subscriptions of one socket.
    pub subscriptions: usize,
    /// The most sockets of this node.
    pub sockets: usize,
    /// The most signed-in sockets of one user on this node.
    pub sockets_per_user: usize,
    /// The most sessions of one user.
    pub sessions_per_user: usize,
    /// The most sockets of one address that have not signed in.
    pub unauthenticated_per_address: usize,
}

/// Time limits of a connection.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// From the connection, or the first byte of a later request, to the end of the request's head.
    pub head: Duration,
    /// From an answer to the next request on its connection.
    pub keep_alive: Duration,
    /// For a request's body; a second more for each 64 KiB of it.
    pub body: Duration,
    /// From the upgrade to signing in.
    pub sign_in: Duration,
    /// For a message on a socket, from its first byte to its last.
    pub message: Duration,
    /// Between pings.
    pub ping: Duration,
    /// From a ping to its pong.
    pub pong: Duration,
    /// For a client to accept a byte of what is sent to it.
    pub write: Duration,
    /// For calls under way when the gateway stops, and for sockets to close.
    pub drain: Duration,
}

/// The settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Where to listen for scrapes of metrics; port 0 takes any free one.
    pub metrics: MetricsListen,
    /// The proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: TrustedProxies,
    /// The web pages that may speak to the gateway.
    pub allowed_origins: AllowedOrigins,
    /// The cluster that keeps the users; `None` keeps them in the data folder.
    pub elastic: Option<ElasticConfig>,
    /// The folder of the embedded store and of generated secrets. Not used with a cluster.
    pub data_dir: PathBuf,
    /// The key of tokens; `None` makes one in the data folder. Always there with a cluster.
    pub jwt_secret: Option<SecretString>,
    /// The secret whose tokens are good as well, while `jwt_secret` is changed.
    pub jwt_accept_secret: Option<SecretString>,
    /// Signs access tokens in the place of `jwt_secret`.
    pub jwt_key: Option<SigningKey>,
    /// The key whose access tokens are good as well, while another takes its place.
    pub jwt_accept_key: Option<SigningKey>,
    /// The key of the password pre-hash; `None` makes one in the data folder. Always there with a cluster.
    pub password_pepper: Option<SecretString>,
    /// The `iss` claim.
    pub token_issuer: String,
    /// The `aud` claim.
    pub token_audience: String,
    /// The life of an access token.
    pub token_life: Duration,
    /// How long sessions last.
    pub sessions: Lifetimes,
    /// bcrypt's cost: each step doubles the time.
    pub bcrypt_cost: u32,
    /// Threads that hash passwords.
    pub hash_threads: usize,
    /// Hashes that may wait.
    pub hash_queue: usize,
    /// The fewest characters of a password.
    pub password_min: usize,
    /// A file of further refused passwords, one a line.
    pub password_list: Option<PathBuf>,
    /// The longest a call may take.
    pub call_timeout: Duration,
    /// Bounds.
    pub limits: Limits,
    /// How often passwords may be tried and accounts made.
    pub throttle: throttle::Limits,
    /// Time limits.
    pub timeouts: Timeouts,
    /// What is logged, e.g. `info` or `doorward=debug`.
    pub log: String,
    /// How it is written.
    pub log_format: LogFormat,
    /// What is unwise about the settings, one line each.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads the environment, and `.env` beneath it. Errors: every problem, one line each.
    pub fn from_env() -> Result<Self, Vec<String>> {
        let (mut variables, mut problems) = (BTreeMap::new(), Vec::new());
        // Of what the file sets.
        let mut lines = BTreeMap::new();
        match std::fs::read(".env") {
            Ok(file) => {
                for set in env_file::parse(&file) {
                    match set {
                        Ok(set) => {
                            lines.insert(set.name.clone(), set.line);
                            variables.insert(set.name, set.value);
                        }
                        Err(problem) => problems.push(format!(".env: {problem}")),
                    }
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => problems.push(format!(".env: cannot be read: {error}")),
        }
        for (name, value) in std::env::vars_os() {
            let Ok(name) = name.into_string() else { continue };
            match value.into_string() {
                // Empty is as good as unset.
                Ok(value) if value.is_empty() && lines.contains_key(&name) => {}
                Ok(value) => {
                    lines.remove(&name);
                    variables.insert(name, value);
                }
                Err(_) if is_ours(&name) => problems.push(format!("{name}: is not UTF-8")),
                Err(_) => {}
            }
        }
        let with_line = |problem: String| match problem.split(':').next().and_then(|name| lines.get(name)) {
            Some(line) => format!("{problem} (.env, line {line})"),
            None => problem,
        };
        let config = Self::from_variables(variables, problems);
        config.map_err(|problems| problems.into_iter().map(with_line).collect())
    }

    /// Reads settings from a map. Errors: `problems` and every further one, one line each.
    pub fn from_variables(variables: BTreeMap<String, String>, problems: Vec<String>) -> Result<Self, Vec<String>> {
        let mut read = Reader::new(variables, problems);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let Listen(listen) = read.value(
            "DOORWARD_LISTEN",
            Listen(SocketAddr::from(([127, 0, 0, 1], 8080))),
            "an address and port such as 127.0.0.1:8080 or localhost:8080",
        );
        let call_timeout = read.seconds("DOORWARD_CALL_TIMEOUT_SECONDS", 5, 1, 60);
        let config = Self {
            listen,
            metrics: read.value(
                "DOORWARD_METRICS_LISTEN",
                MetricsListen(Some(SocketAddr::from(([127, 0, 0, 1], 9090)))),
                "an address and port such as 127.0.0.1:9090 or localhost:9090, or off",
            ),
            trusted_proxies: read.value(
                "DOORWARD_TRUSTED_PROXIES",
                TrustedProxies::default(),
                "addresses or blocks such as 10.0.0.0/8, separated by commas",
            ),
            allowed_origins: read.parsed("DOORWARD_ALLOWED_ORIGINS"),
            elastic: read.elastic(call_timeout),
            data_dir: read.value("DOORWARD_DATA_DIR", PathBuf::from("data"), "a folder"),
            jwt_secret: read.key_text(["JWT_SECRET", "JWT_SECRET_FILE"]),
            jwt_accept_secret: read.key_text(["DOORWARD_JWT_ACCEPT_SECRET", "DOORWARD_JWT_ACCEPT_SECRET_FILE"]),
            jwt_key: read.key("DOORWARD_JWT_KEY_FILE"),
            jwt_accept_key: read.key("DOORWARD_JWT_ACCEPT_KEY_FILE"),
            password_pepper: read.key_text(["DOORWARD_PASSWORD_PEPPER", "DOORWARD_PASSWORD_PEPPER_FILE"]),
            token_issuer: read.value("DOORWARD_TOKEN_ISSUER", "doorward".to_owned(), "a name"),
            token_audience: read.value("DOORWARD_TOKEN_AUDIENCE", "doorward".to_owned(), "a name"),
            token_life: read.seconds("DOORWARD_TOKEN_SECONDS", 900, 10, 86_400),
            sessions: Lifetimes {
                idle: read.seconds("DOORWARD_SESSION_IDLE_SECONDS", 86_400, 60, 31_536_000),
                whole: read.seconds("DOORWARD_SESSION_SECONDS", 2_592_000, 60, 31_536_000),
            },
            bcrypt_cost: read.number("DOORWARD_BCRYPT_COST", 12, 10, 16),
            hash_threads: read.number("DOORWARD_HASH_THREADS", cores, 1, 256),
            hash_queue: read.number("DOORWARD_HASH_QUEUE", 32, 1, 10_000),
            password_min: read.number("DOORWARD_PASSWORD_MIN", 8, 8, 64),
            password_list: read.optional("DOORWARD_PASSWORD_LIST").map(PathBuf::from),
            call_timeout,
            limits: Limits {
                message_bytes: read.number("DOORWARD_MAX_MESSAGE_BYTES", 64 << 10, 1 << 10, 16 << 20),
                reply_bytes: read.number("DOORWARD_MAX_REPLY_BYTES", 1 << 20, 64 << 10, 64 << 20),
                batch_calls: read.number("DOORWARD_MAX_BATCH_CALLS", 50, 1, 1000),
                calls_in_flight: read.number("DOORWARD_MAX_CALLS_IN_FLIGHT", 32, 1, 1000),
                calls_per_second: read.number("DOORWARD_CALLS_PER_SECOND", 1000, 1, 1_000_000),
                calls_burst: read.number("DOORWARD_CALLS_BURST", 10_000, 1, 10_000_000),
                subscriptions: read.number("DOORWARD_MAX_SUBSCRIPTIONS", 32, 1, 1000),
                sockets: read.number("DOORWARD_MAX_SOCKETS", 20_000, 1, 10_000_000),
                sockets_per_user: read.number("DOORWARD_MAX_SOCKETS_PER_USER", 20, 1, 1_000_000),
                sessions_per_user: read.number("DOORWARD_MAX_SESSIONS_PER_USER", 100, 1, 1_000),
                unauthenticated_per_address: read.number("DOORWARD_MAX_UNAUTHENTICATED_PER_ADDRESS", 20, 1, 1_000_000),
            },
            throttle: throttle::Limits {
                failures: read.number("DOORWARD_LOGIN_FAILURES", 10, 1, 1_000_000),
                failures_in_a_row: read.number("DOORWARD_LOGIN_FAILURES_IN_A_ROW", 5, 1, 1_000_000),
                delay: read.seconds("DOORWARD_LOGIN_DELAY_SECONDS", 1, 1, 3600),
                delay_max: read.seconds("DOORWARD_LOGIN_DELAY_MAX_SECONDS", 900, 1, 86_400),
                failures_per_address: read.number("DOORWARD_LOGIN_FAILURES_PER_ADDRESS", 100, 1, 1_000_000),
                registrations_per_address: read.number("DOORWARD_REGISTRATIONS_PER_ADDRESS", 10, 1, 1_000_000),
                keys: read.number("DOORWARD_THROTTLE_KEYS", 1_000_000, 1_000, 100_000_000),
            },
            timeouts: Timeouts {
                head: read.seconds("DOORWARD_HEAD_TIMEOUT_SECONDS", 10, 1, 300),
                keep_alive: read.seconds("DOORWARD_KEEP_ALIVE_SECONDS", 75, 1, 3600),
                body: read.seconds("DOORWARD_BODY_TIMEOUT_SECONDS", 10, 1, 300),
                sign_in: read.seconds("DOORWARD_SIGN_IN_TIMEOUT_SECONDS", 10, 1, 300),
                message: read.seconds("DOORWARD_MESSAGE_TIMEOUT_SECONDS", 30, 1, 300),
                ping: read.seconds("DOORWARD_PING_SECONDS", 25, 1, 3600),
                pong: read.seconds("DOORWARD_PONG_TIMEOUT_SECONDS", 10, 1, 300),
                write: read.seconds("DOORWARD_WRITE_TIMEOUT_SECONDS", 30, 1, 300),
                drain: read.seconds("DOORWARD_DRAIN_SECONDS", 10, 1, 60),
            },
            log: read.value("DOORWARD_LOG", "info".to_owned(), "a log filter such as info or doorward=debug"),
            log_format: read.value("DOORWARD_LOG_FORMAT", LogFormat::Text, "text or json"),
            warnings: Vec::new(),
        };
        if !is_log_filter(&config.log) {
            read.problems.push("DOORWARD_LOG: must be a log filter such as info or doorward=debug".to_owned());
        }
        // One byte, since a folder can be opened but not read.
        if let Some(path) = &config.password_list
            && let Err(error) = File::open(path).and_then(|mut file| file.read(&mut [0]))
        {
            read.problems.push(format!("DOORWARD_PASSWORD_LIST: cannot be read: {error}"));
        }
        if config.elastic.is_some() {
            // Nodes that share a cluster must share them, and have no folder in common.
            for (name, secret) in
                [("JWT_SECRET", &config.jwt_secret), ("DOORWARD_PASSWORD_PEPPER", &config.password_pepper)]
            {
                if secret.is_none() {
                    read.problems.push(format!("{name}: must be set with ES_URL, to the same value on every node"));
                }
            }
        }
        read.finish().map(|warnings| Self { warnings, ..config })
    }
}

/// Whether every part is a level, or a target with one: a level misspelt alone would be taken for a target.
fn is_log_filter(text: &str) -> bool {
    let level = |part: &str| part.parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
    text.parse::<tracing_subscriber::filter::Targets>().is_ok()
        && text.split(',').all(|part| part.contains('=') || level(part.trim()))
}

/// Whether a text can be sent in a header.
fn is_header_value(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether names of indices can begin with it.
fn is_index_prefix(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=40).contains(&text.len()) && text.bytes().all(legal) && text.as_bytes()[0].is_ascii_lowercase()
}

impl FromStr for LogFormat {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(()),
        }
    }
}

impl Reader {
    /// The cluster, when `ES_URL` names one. The settings of a cluster are checked in any case.
    fn elastic(&mut self, call_timeout: Duration) -> Option<ElasticConfig> {
        let nodes = self.nodes();
        let api_key = self.secret(["DOORWARD_ES_API_KEY", "DOORWARD_ES_API_KEY_FILE"]);
        let username = self.optional("DOORWARD_ES_USERNAME");
        let password = self.secret(["DOORWARD_ES_PASSWORD", "DOORWARD_ES_PASSWORD_FILE"]);
        let credentials = match (api_key, username, password) {
            (None, None, None) => None,
            (Some(key), None, None) if is_header_value(key.expose_secret()) => Some(ElasticCredentials::ApiKey(key)),
            (None, Some(username), Some(password)) => Some(ElasticCredentials::Basic { username, password }),
            (Some(_), None, None) => {
                self.problems.push("DOORWARD_ES_API_KEY: must be an API key in its encoded form".to_owned());
                None
            }
            (Some(_), ..) => {
                self.problems
                    .push("DOORWARD_ES_API_KEY: cannot be set together with a username or password".to_owned());
                None
            }
            (None, ..) => {
                let problem = "DOORWARD_ES_USERNAME: must be set together with DOORWARD_ES_PASSWORD";
                self.problems.push(problem.to_owned());
                None
            }
        };
        let prefix = self.value("DOORWARD_INDEX_PREFIX", "doorward".to_owned(), "a name");
        if !is_index_prefix(&prefix) {
            let problem = "DOORWARD_INDEX_PREFIX: must be 1 to 40 of a-z 0-9 and -, beginning with a letter";
            self.problems.push(problem.to_owned());
        }
        let ca_file = self.optional("DOORWARD_ES_CA_FILE").map(PathBuf::from);
        self.problems.extend(ca_file.as_deref().and_then(|path| Authority::read(elastic::CA_FILE, path).err()));
        let config = ElasticConfig {
            nodes: Vec::new(),
            credentials,
            ca_file,
            prefix,
            shards: self.number("DOORWARD_ES_SHARDS", 1, 1, elastic::SHARDS_MAX),
            connect_timeout: self.milliseconds("DOORWARD_ES_CONNECT_TIMEOUT_MS", 500, 50, 10_000),
            request_timeout: self.milliseconds("DOORWARD_ES_REQUEST_TIMEOUT_MS", 2_000, 100, 30_000),
            operation: operation_within(call_timeout),
            start_patience: self.seconds("DOORWARD_ES_START_SECONDS", 60, 1, 3_600),
        };
        nodes.map(|nodes| ElasticConfig { nodes, ..config })
    }

    /// The nodes of `ES_URL`, without anything else that a URL can carry.
    fn nodes(&mut self) -> Option<Vec<Url>> {
        let text = self.optional("ES_URL")?;
        let node = |part: &str| {
            let url = Url::parse(part.trim()).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
            let url = url.filter(Url::has_host).ok_or("must be http or https URLs, separated by commas")?;
            if !url.username().is_empty() || url.password().is_some() {
                return Err("must not hold credentials; set DOORWARD_ES_USERNAME and DOORWARD_ES_PASSWORD");
            }
            if url.query().is_some() || url.fragment().is_some() {
                return Err("must not hold a query or fragment");
            }
            Ok(url)
        };
        match text.split(',').map(node).collect() {
            Ok(nodes) => Some(nodes),
            Err(problem) => {
                self.problems.push(format!("ES_URL: {problem}"));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::reader::SAMPLE_SECRET;
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Config, Vec<String>> {
        let variables = pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        Config::from_variables(variables, Vec::new())
    }

    #[test]
    fn every_problem_is_told_at_once_and_no_secret_with_it() {
        let problems = read(&[
            ("JWT_SECRET", "short-and-secret"),
            ("DOORWARD_LISTEN", "nowhere"),
            ("DOORWARD_BCRYPT_COST", "9"),
            ("DOORWARD_LISTN", "127.0.0.1:1"),
        ])
        .unwrap_err();
        let names: Vec<_> = problems.iter().filter_map(|line| line.split(':').next()).collect();
        assert_eq!(names, ["DOORWARD_LISTEN", "JWT_SECRET", "DOORWARD_BCRYPT_COST", "DOORWARD_LISTN"]);
        assert!(!problems.concat().contains("short-and-secret"));
    }

    #[test]
    fn nothing_set_is_a_working_configuration() {
        let config = read(&[]).unwrap();
        assert_eq!((config.listen.to_string().as_str(), config.bcrypt_cost), ("127.0.0.1:8080", 12));
    }

    #[test]
    fn credentials_of_the_cluster_come_from_files_too() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path.display().to_string()
        };
        let (secret, password, key) =
            (file("secret", &"s".repeat(40)), file("password", "p ssw\u{f6}rd\n"), file("key", "a2V5\n"));
        let cluster = [
            ("ES_URL", "http://127.0.0.1:9200"),
            ("JWT_SECRET_FILE", secret.as_str()),
            ("DOORWARD_PASSWORD_PEPPER_FILE", &secret),
        ];
        let with = |more: &[(&str, &str)]| read(&[&cluster, more].concat()).unwrap().elastic.unwrap().credentials;
        match with(&[("DOORWARD_ES_USERNAME", "gateway"), ("DOORWARD_ES_PASSWORD_FILE", &password)]) {
            Some(ElasticCredentials::Basic { password, .. }) => assert_eq!(password.expose_secret(), "p ssw\u{f6}rd"),
            _ => panic!("a name and a password"),
        }
        match with(&[("DOORWARD_ES_API_KEY_FILE", &key)]) {
            Some(ElasticCredentials::ApiKey(key)) => assert_eq!(key.expose_secret(), "a2V5"),
            _ => panic!("a key"),
        }
    }

    #[test]
    fn s10_a_secret_that_is_the_samples_is_refused() {
        assert!(read(&[("JWT_SECRET", SAMPLE_SECRET)]).unwrap_err()[0].starts_with("JWT_SECRET: is still"));
    }

    #[test]
    fn the_example_file_names_every_setting_and_no_other() {
        let example = include_str!("../.env.example");
        let mut named: Vec<&str> = example
            .lines()
            .map(|line| line.trim_start_matches("# "))
            .filter_map(|line| line.split_once('='))
            .map(|(name, _)| name)
            .filter(|name| is_ours(name))
            .collect();
        let mut reader = Vec::new();
        let source = include_str!("config.rs").split("#[cfg(test)]").next().unwrap();
        for quoted in source.split('"').skip(1).step_by(2) {
            if is_ours(quoted) && quoted.bytes().all(|b| b.is_ascii_uppercase() || b == b'_') && quoted != "DOORWARD_" {
                reader.push(quoted);
            }
        }
        named.sort_unstable();
        reader.sort_unstable();
        reader.dedup();
        assert_eq!(named, reader);
    }
}
