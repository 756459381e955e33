//! A server under measurement: a child process that the bench starts, and the only kind it ends.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::Result;
use crate::http::Http;
use crate::placement::{Placement, Processors};

/// How long a server may take to become ready, and to go after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running server. Dropped without `stop`, it is killed.
pub struct Process {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its process id.
    pub pid: u32,
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, which is told by its caller to listen on `address`; what it prints goes to `log`.
    pub fn start(
        name: &'static str,
        mut command: Command,
        address: SocketAddr,
        log: PathBuf,
        placement: Placement,
        processors: &Processors,
    ) -> Result<Self> {
        let output = File::create(&log)?;
        command
            .env("TOKIO_WORKER_THREADS", processors.workers(placement).to_string())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true);
        let child = processors
            .place_server(placement, || command.spawn())?
            .map_err(|cause| format!("{name} does not start: {cause}"))?;
        let pid = child.id().ok_or("the server ended at once")?;
        Ok(Self { address, pid, name, child, log })
    }

    /// Waits until `GET path` answers 200, or anything at all where `path` is `None`.
    pub async fn ready(&mut self, path: Option<&str>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("{} ended: {status}\n{}", self.name, self.last_words()).into());
            }
            if self.answers(path).await {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{} is not ready after {PATIENCE:?}\n{}", self.name, self.last_words()).into());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn answers(&self, path: Option<&str>) -> bool {
        let Ok(mut http) = Http::connect(self.address, 0).await else { return false };
        match path {
            Some(path) => matches!(timeout(Duration::from_secs(5), http.get(path)).await, Ok(Ok(200))),
            None => true,
        }
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    /// Asks it to go, and after half a minute makes it.
    pub async fn stop(mut self) -> Result<()> {
        if let Some(pid) = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            kill_process(pid, Signal::TERM)?;
        }
        if timeout(PATIENCE, self.child.wait()).await.is_err() {
            eprintln!("  {} still runs {PATIENCE:?} after SIGTERM: killed", self.name);
            self.child.kill().await?;
        }
        Ok(())
    }
}

/// A port of the loopback address that is free now.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// A folder of its own that goes when this is dropped.
pub struct TempFolder(PathBuf);

impl TempFolder {
    /// Makes the folder.
    pub fn new() -> Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("doorward-bench-{}-{number}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        if let Err(cause) = fs::remove_dir_all(&self.0) {
            eprintln!("  {} stays: {cause}", self.0.display());
        }
    }
}
