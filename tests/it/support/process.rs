//! A gateway as its users run it: the binary, in a process of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::PATIENCE;

/// A running gateway; killed on drop.
pub struct Process {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Process {
    /// The binary with a clean environment but for these settings.
    pub fn command(data_dir: &Path, settings: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_doorward"));
        command
            .env_clear()
            .env("DOORWARD_DATA_DIR", data_dir)
            .env("DOORWARD_LISTEN", "127.0.0.1:0")
            .env("DOORWARD_BCRYPT_COST", "10")
            .current_dir(data_dir.parent().expect("the data folder is inside a temporary one"))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        for (name, value) in settings {
            command.env(name, value);
        }
        command
    }

    /// Starts it and waits until it says where it listens.
    pub async fn start(data_dir: &Path, settings: &[(&str, &str)]) -> Self {
        let mut child = Self::command(data_dir, settings)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let said = async {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(rest) = line.split("http://").nth(1) {
                    let address = rest.split(' ').next().expect("text before a space");
                    return address.parse().expect("an address");
                }
            }
            panic!("the gateway ended before it listened")
        };
        let address = tokio::time::timeout(PATIENCE, said).await.expect("it starts in time");
        // Keep reading, so that the process never blocks on a full pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { child, address }
    }

    /// Ends it as `kill -9` does, and waits until it is gone.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("it was running");
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id().expect("it is running")
    }

    /// Waits for its end.
    pub async fn wait(&mut self) -> std::process::ExitStatus {
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it ends in time").expect("it was running")
    }
}
