//! A network of a test's own, whose links it can cut so that packets are lost and nobody is told.
//!
//! The test runs once more in a process with a network namespace of its own; a gateway there gets a second one. Root may
//! make them, and others where the system lets users.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::geteuid;
use tokio::io::AsyncWriteExt;

use super::Process;

/// Set where a test runs in a network of its own.
const OWN: &str = "DOORWARD_TEST_NETWORK";
/// Where a gateway listens in its namespace, and where for scrapes.
const PORTS: [u16; 2] = [8080, 9090];

/// Runs the test of this name (`module::name`) once more in a network of its own, unless it runs there: then it answers true.
pub fn is_own(test: &str) -> bool {
    if std::env::var_os(OWN).is_some() {
        return true;
    }
    let namespace: &[&str] = if geteuid().is_root() { &["--net"] } else { &["--net", "--map-root-user"] };
    let mut command = Command::new("unshare");
    let program = std::env::current_exe().expect("it runs");
    command.args(namespace).arg(program).args(["--exact", test, "--nocapture"]).env(OWN, "1");
    let ended = command.stdout(Stdio::null()).status();
    assert!(
        ended.as_ref().is_ok_and(std::process::ExitStatus::success),
        "{test} failed in a network namespace of its own ({ended:?}); it needs util-linux' `unshare` and `nsenter`, \
         iproute2's `ip`, and root or a system where users may make namespaces"
    );
    false
}

/// A gateway at the other end of two links, of which one can be cut.
pub struct Remote {
    /// Last to be used: the links are gone with it.
    pub gateway: Process,
    /// Where it is reached over the link that stays.
    pub kept: SocketAddr,
    /// Where it is reached over the link that can be cut.
    pub cut: SocketAddr,
    /// Where it is scraped, over the link that stays.
    pub metrics: SocketAddr,
}

impl Remote {
    /// Starts it with these settings; here only [`is_own`] is true.
    pub async fn start(data_dir: &Path, settings: &[(&str, &str)]) -> Self {
        let [listen, metrics] = PORTS.map(|port| format!("0.0.0.0:{port}"));
        let own = [("DOORWARD_LISTEN", listen.as_str()), ("DOORWARD_METRICS_LISTEN", metrics.as_str())];
        let mut before = tokio::process::Command::new("unshare");
        before.arg("--net");
        let mut command = Process::command_within(before, data_dir, &[&own, settings].concat());
        command.stderr(Stdio::null());
        let gateway = Process::spawn(command).await;
        let id = gateway.id();
        for (link, net) in [("kept", "10.0.0"), ("cut", "10.0.1")] {
            sh(&format!(
                "ip link add {link} type veth peer name {link}-there netns {id} \
                 && ip address add {net}.1/24 dev {link} && ip link set {link} up \
                 && nsenter --net=/proc/{id}/ns/net sh -c \
                 'ip address add {net}.2/24 dev {link}-there && ip link set {link}-there up'"
            ));
        }
        let at = |net: &str, port| format!("{net}.2:{port}").parse().expect("an address");
        let [port, scrapes] = PORTS;
        Self { gateway, kept: at("10.0.0", port), cut: at("10.0.1", port), metrics: at("10.0.0", scrapes) }
    }

    /// From now on, what is sent over the one link is lost, either way.
    pub fn cut(&self) {
        sh("ip link set cut down");
    }
}

/// Machines in networks of their own, each with a link to here and one to the others, which can be cut.
///
/// Their addresses are loopback ones: on others Elasticsearch makes demands of the system that a trial need not meet.
pub struct Machines;

impl Machines {
    /// None yet; here only [`is_own`] is true.
    pub fn new() -> Self {
        sh(&format!(
            "{LOOPBACK_LEAVES} && ip link add kept type bridge && ip address add 127.8.0.1/24 dev kept \
             && ip link set kept up && ip link add others type bridge && ip link set others up"
        ));
        Self
    }

    /// Where a machine is reached from here.
    pub fn from_here(machine: usize) -> IpAddr {
        IpAddr::from([127, 8, 0, address(machine)])
    }

    /// Where it is reached from the others, unless it is cut off.
    pub fn from_others(machine: usize) -> IpAddr {
        IpAddr::from([127, 9, 0, address(machine)])
    }

    /// What becomes of the arguments that follow: a command on a new machine, once [`Machines::connect`] is told of it. Its
    /// standard input must be piped.
    pub fn command() -> tokio::process::Command {
        let mut command = tokio::process::Command::new("unshare");
        command.args(["--net", "sh", "-c", "read -r _ && exec \"$@\"", "sh"]);
        command
    }

    /// Gives the command of a machine its links, and lets it go on.
    pub async fn connect(&self, machine: usize, command: &mut tokio::process::Child) {
        let id = command.id().expect("it is running");
        let there: String = [("kept", "127.8.0"), ("others", "127.9.0")]
            .iter()
            .map(|(bridge, net)| {
                let (link, last) = (format!("{bridge}{machine}"), address(machine));
                sh(&format!(
                    "ip link add {link} type veth peer name {bridge} netns {id} \
                     && ip link set {link} master {bridge} && ip link set {link} up"
                ));
                format!(" && ip address add {net}.{last}/24 dev {bridge} && ip link set {bridge} up")
            })
            .collect();
        sh(&format!("nsenter --net=/proc/{id}/ns/net sh -c '{LOOPBACK_LEAVES}{there}'"));
        let mut input = command.stdin.take().expect("it is piped");
        input.write_all(b"\n").await.expect("it reads");
    }

    /// From now on, what a machine and the others send to each other is lost.
    pub fn cut_off(&self, machine: usize) {
        sh(&format!("ip link set others{machine} nomaster"));
    }

    /// From now on it arrives again.
    pub fn heal(&self, machine: usize) {
        sh(&format!("ip link set others{machine} master others"));
    }
}

/// Has a network send what is for loopback addresses, other than the usual one, where its routes say.
const LOOPBACK_LEAVES: &str = "ip link set lo up && sysctl -q -w net.ipv4.conf.all.route_localnet=1 \
    && ip route replace local 127.0.0.1 dev lo table local && ip route del local 127.0.0.0/8 dev lo table local";

fn address(machine: usize) -> u8 {
    u8::try_from(11 + machine).expect("a few machines")
}

fn sh(script: &str) {
    let ended = Command::new("sh").args(["-c", script]).status().expect("there is a shell");
    assert!(ended.success(), "{script}");
}
