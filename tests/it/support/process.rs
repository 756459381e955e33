//! A gateway as its users run it: the binary, in a process of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use super::PATIENCE;

const BINARY: &str = env!("CARGO_BIN_EXE_doorward");

/// A running gateway; killed on drop.
pub struct Process {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    /// Where it listens for scrapes.
    pub metrics: SocketAddr,
}

/// What a command left that has ended.
pub struct Ended {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// What it had to say besides its part in the audit trail.
    pub fn said(&self) -> String {
        let lines = self.stderr.split_inclusive('\n').filter(|line| !line.contains(" audit: event="));
        lines.collect()
    }
}

impl Process {
    /// The binary with a clean environment but for these settings.
    pub fn command(data_dir: &Path, settings: &[(&str, &str)]) -> Command {
        Self::set(Command::new(BINARY), data_dir, settings)
    }

    /// The same with a data folder that is a mount of its own (`mount` with these options), seen by this process
    /// only and gone with it.
    pub fn command_on_mount(options: &str, data_dir: &Path, settings: &[(&str, &str)]) -> Command {
        std::fs::create_dir_all(data_dir).expect("a folder can be made");
        let mount = format!("mount -t tmpfs -o {options} tmpfs \"$DOORWARD_DATA_DIR\" && exec \"$@\"");
        let namespace: &[&str] = if geteuid().is_root() { &["--mount"] } else { &["--mount", "--map-root-user"] };
        let within = |program: &str| {
            let mut command = Command::new("unshare");
            command.args(namespace).args(["sh", "-c", &mount, "sh", program]);
            Self::set(command, data_dir, settings)
        };
        let possible = within("true").into_std().status();
        assert!(
            possible.is_ok_and(|status| status.success()),
            "this test mounts a tmpfs in a namespace of its own (util-linux `unshare`): run it as root, or where users \
             may make namespaces"
        );
        within(BINARY)
    }

    /// A command that becomes the gateway after this one, told of this data folder and these settings.
    pub fn command_within(mut before: Command, data_dir: &Path, settings: &[(&str, &str)]) -> Command {
        before.arg(BINARY);
        Self::set(before, data_dir, settings)
    }

    fn set(mut command: Command, data_dir: &Path, settings: &[(&str, &str)]) -> Command {
        command
            .env_clear()
            .env("DOORWARD_DATA_DIR", data_dir)
            .env("DOORWARD_LISTEN", "127.0.0.1:0")
            .env("DOORWARD_METRICS_LISTEN", "127.0.0.1:0")
            .env("DOORWARD_BCRYPT_COST", "10")
            .env("DOORWARD_REGISTRATIONS_PER_ADDRESS", "1000000")
            .env("DOORWARD_CALLS_PER_SECOND", "1000000")
            .env("DOORWARD_CALLS_BURST", "10000000")
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
        let mut command = Self::command(data_dir, settings);
        command.stderr(Stdio::null());
        Self::spawn(command).await
    }

    /// Starts a command that becomes the gateway, and waits until it says where it listens.
    pub async fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the binary runs");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let said = async {
            let mut addresses = Vec::new();
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(rest) = line.split("http://").nth(1) {
                    let address = rest.split([' ', '/']).next().expect("text before a space or slash");
                    addresses.push(address.parse().expect("an address"));
                }
                if let [address, metrics] = addresses[..] {
                    return (address, metrics);
                }
            }
            panic!("the gateway ended before it listened")
        };
        let (address, metrics) = tokio::time::timeout(PATIENCE, said).await.expect("it starts in time");
        // Keep reading, so that the process never blocks on a full pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { child, address, metrics }
    }

    /// Runs a command to its end, with this text as its standard input.
    pub async fn run(mut command: Command, input: &str) -> Ended {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary runs");
        let mut stdin = child.stdin.take().expect("it is piped");
        // It may end without reading.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
        let output = output.expect("it ends in time").expect("it was running");
        Ended {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("it speaks UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("it speaks UTF-8"),
        }
    }

    /// What its probe of readiness answers.
    pub async fn ready(&self) -> u16 {
        let status = reqwest::get(format!("http://{}/readyz", self.address)).await.expect("it answers").status();
        assert!(matches!(status.as_u16(), 200 | 503), "{status}");
        status.as_u16()
    }

    /// Asks until its probe of readiness answers this.
    pub async fn becomes(&self, status: u16) {
        let asked = async { while self.ready().await != status {} };
        tokio::time::timeout(PATIENCE, asked).await.expect("/readyz follows the store");
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.id()).expect("ids are small");
        let id = Pid::from_raw(id).expect("ids are positive");
        kill_process(id, signal).expect("it is running");
    }

    /// The lines of its standard error, where the command has piped it.
    pub fn stderr(&mut self) -> Lines<BufReader<ChildStderr>> {
        BufReader::new(self.child.stderr.take().expect("it is piped")).lines()
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
