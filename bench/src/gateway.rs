//! A gateway of the bench's own: started with a fresh data folder on a free port, filled through its API.

use std::path::{Path, PathBuf};

use futures_util::future::try_join_all;
use serde_json::json;
use tokio::process::Command;

use crate::Result;
use crate::http::Http;
use crate::placement::{Placement, Processors};
use crate::process::{Process, TempFolder, free_address};

/// Sockets a user may have open by default; the bench stays within it.
pub const SOCKETS_PER_USER: usize = 20;
/// Long, and on no list of common passwords.
pub const PASSWORD: &str = "quiet harbour, seven lanterns";

/// A user who has signed in.
#[derive(Clone)]
pub struct User {
    /// The name.
    pub username: String,
    /// The access token.
    pub token: String,
}

/// Settings of one gateway, beside those the bench always makes.
pub type Settings<'a> = &'a [(&'a str, String)];

/// A running gateway.
pub struct Gateway {
    /// Its process.
    pub process: Process,
    /// Last: the folder goes after the process.
    _folder: TempFolder,
}

impl Gateway {
    /// Starts the program at `path` and waits until it is ready. `data` is its data folder, or a fresh one.
    pub async fn start(
        path: &Path,
        data: Option<&Path>,
        settings: Settings<'_>,
        placement: Placement,
        processors: &Processors,
    ) -> Result<Self> {
        let folder = TempFolder::new()?;
        let data = data.map_or_else(|| folder.path().join("data"), PathBuf::from);
        let address = free_address()?;
        let mut command = Command::new(path);
        // Neither this machine's settings nor a `.env` of the folder the bench runs in may reach the gateway.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("DOORWARD_")) {
            command.env_remove(name);
        }
        command
            .env_remove("ES_URL")
            .env_remove("JWT_SECRET")
            .current_dir(folder.path())
            .env("DOORWARD_LISTEN", address.to_string())
            .env("DOORWARD_METRICS_LISTEN", "127.0.0.1:0")
            .env("DOORWARD_DATA_DIR", data)
            .env("DOORWARD_BCRYPT_COST", "10")
            .env("DOORWARD_REGISTRATIONS_PER_ADDRESS", "1000000")
            .env("DOORWARD_CALLS_PER_SECOND", "1000000")
            .env("DOORWARD_CALLS_BURST", "10000000")
            .envs(settings.iter().map(|(name, value)| (name, value)));
        let log = folder.path().join("gateway.log");
        let mut process = Process::start("the gateway", command, address, log, placement, processors)?;
        process.ready(Some("/readyz")).await?;
        Ok(Self { process, _folder: folder })
    }

    /// Registers `count` users, two at a time a processor. All names have one length, so that all answers do.
    pub async fn register(&self, count: usize) -> Result<Vec<User>> {
        const AT_ONCE: usize = 4;
        let batches = (0..AT_ONCE.min(count)).map(async |first| {
            let mut http = Http::connect(self.process.address, first).await?;
            let mut users = Vec::new();
            for number in (first..count).step_by(AT_ONCE) {
                users.push(register(&mut http, &format!("bench{number:06}")).await?);
            }
            Result::<_>::Ok(users)
        });
        let batches: Vec<Vec<User>> = try_join_all(batches).await?;
        Ok(batches.concat())
    }

    /// As many users as `sockets` sockets need.
    pub async fn register_for(&self, sockets: usize) -> Result<Vec<User>> {
        self.register(sockets.div_ceil(SOCKETS_PER_USER)).await
    }

    /// Stops it.
    pub async fn stop(self) -> Result<()> {
        self.process.stop().await
    }
}

/// Registers one user, or signs in who is there already from an earlier run.
pub async fn register(http: &mut Http, username: &str) -> Result<User> {
    let fields = json!({"username": username, "email": format!("{username}@example.org"), "password": PASSWORD});
    let result = match http.call("auth.register", fields, None).await {
        Err(taken) if taken.to_string().contains("1202") => {
            http.call("auth.login", json!({"login": username, "password": PASSWORD}), None).await?
        }
        other => other?,
    };
    let token = result["tokens"]["access_token"].as_str().ok_or("auth.register gave no access token")?;
    Ok(User { username: username.to_owned(), token: token.to_owned() })
}
