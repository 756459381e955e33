//! Elasticsearch for tests: the shared server that `tests/elastic/es run` gives, and nodes of a test's own, by
//! `tests/elastic/es node`, to be killed or locked.
//!
//! A node dies with the thread that started it, so start it in the test itself and not in a task. Root, who is the usual
//! user here and in CI, runs the servers as `nobody`; `es` sees to that.

mod tests;

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::lasting_address;
use super::network::Machines;

/// Time for a server to start; the first start on a machine fetches the archive.
const START: Duration = Duration::from_secs(180);

/// What starts servers.
const ES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/elastic/es");

/// How nodes notice soon that one of them is cut off.
const SOON_NOTICED: [&str; 6] = [
    "cluster.fault_detection.follower_check.timeout=1s",
    "cluster.fault_detection.follower_check.retry_count=2",
    "cluster.fault_detection.leader_check.timeout=1s",
    "cluster.fault_detection.leader_check.retry_count=2",
    "cluster.publish.timeout=3s",
    "node.store.allow_mmap=false",
];

/// The superuser of a node whose security is on.
pub const ADMIN: &str = "es_admin";

/// The shared server. Tests keep apart by index prefixes of their own.
pub fn elastic_url() -> String {
    std::env::var("TEST_ES_URL").expect(
        "set TEST_ES_URL to an Elasticsearch without security, or run the tests by `make test` or \
         `tests/elastic/es run -- cargo test …`",
    )
}

/// Where the shared server listens, for a proxy before it.
pub fn elastic_address() -> SocketAddr {
    let url = reqwest::Url::parse(&elastic_url()).expect("a server has a URL");
    url.socket_addrs(|| None).expect("its host is known")[0]
}

/// A node in a process group of its own; killed on drop, data and all.
pub struct Node {
    arguments: Vec<String>,
    http: SocketAddr,
    child: Child,
    _folder: TempDir,
}

impl Node {
    /// A server of one node with its security on. [`ADMIN`] has the password; so has a user for each of these roles, of
    /// the same name, who may do what it says (the body of the security API's `PUT /_security/role/{name}`).
    ///
    /// That API itself, and API keys with it, are not to be had: the archive lacks a module that its index needs.
    pub async fn locked(password: &str, roles: &[(&str, Value)]) -> Self {
        let http = lasting_address();
        let mut arguments = vec!["--password".to_owned(), password.to_owned()];
        for (name, rights) in roles {
            arguments.extend(["--role".to_owned(), format!("{name}={rights}")]);
        }
        let mut node = Self::spawn(Command::new(ES), "alone", http, arguments);
        node.started().await;
        node
    }

    /// `before` becomes `tests/elastic/es` when it is told what to become.
    fn spawn(before: Command, name: &str, http: SocketAddr, mut arguments: Vec<String>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let data = folder.path().to_str().expect("its name is text");
        let port = http.port().to_string();
        arguments.extend(["--name", name, "--http-port", &port, "--data", data].map(String::from));
        Self { child: become_node(before, &arguments), arguments, http, _folder: folder }
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// Waits until it says that it has started: it listens, and has joined its cluster.
    async fn started(&mut self) {
        let mut lines = BufReader::new(self.child.stdout.take().expect("it is piped")).lines();
        let said = async {
            let mut log = Vec::new();
            while let Ok(Some(line)) = lines.next_line().await {
                if line.contains("][Node] started {") {
                    return;
                }
                log.push(line);
            }
            let last = log.len().saturating_sub(10);
            panic!("the node ended before it had started: {}", log[last..].join("\n"))
        };
        tokio::time::timeout(START, said).await.expect("a node starts in time");
        // Keep reading, so that the process never blocks on a full pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    }

    /// Ends it as a power cut does, and waits until it is gone.
    pub async fn kill(&mut self) {
        self.kill_group();
        self.child.wait().await.expect("it was running");
    }

    /// Starts it again, with its data, after it was killed.
    pub async fn restart(&mut self) {
        self.child = become_node(Command::new(ES), &self.arguments);
        self.started().await;
    }

    fn kill_group(&self) {
        // No id: it was killed and waited for.
        let Some(id) = self.child.id() else { return };
        let id = Pid::from_raw(i32::try_from(id).expect("ids are small")).expect("ids are positive");
        // It may have ended by itself.
        let _ = kill_process_group(id, Signal::KILL);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill_group();
    }
}

/// Some nodes on this machine that form one cluster.
pub struct Cluster {
    pub nodes: Vec<Node>,
    /// Where each node has a machine of its own.
    machines: Option<Machines>,
}

impl Cluster {
    /// Starts `N` nodes with heaps of this size (`384m`), and waits until all have joined.
    pub async fn start<const N: usize>(heap: &str) -> Self {
        let transports: [SocketAddr; N] = std::array::from_fn(|_| lasting_address());
        let seeds = transports.map(|address| address.to_string()).join(",");
        let names: [String; N] = std::array::from_fn(|index| format!("node-{index}"));
        let masters = names.join(",");
        let mut nodes = Vec::new();
        for (name, transport) in names.iter().zip(transports) {
            let port = transport.port().to_string();
            let arguments = ["--transport-port", &port, "--seed-hosts", &seeds, "--masters", &masters, "--heap", heap];
            let arguments = arguments.map(String::from).to_vec();
            nodes.push(Node::spawn(Command::new(ES), name, lasting_address(), arguments));
        }
        for node in &mut nodes {
            node.started().await;
        }
        Self { nodes, machines: None }
    }

    /// The same with each node on a machine of its own, which can be cut off from the others while it is reached from here.
    /// Only in a network of the test's own.
    pub async fn apart<const N: usize>(heap: &str) -> Self {
        const HTTP: u16 = 9200;
        const TRANSPORT: u16 = 9300;
        let machines = Machines::new();
        let seeds: Vec<String> = (0..N).map(|at| format!("{}:{TRANSPORT}", Machines::from_others(at))).collect();
        let masters: Vec<String> = (0..N).map(|at| format!("node-{at}")).collect();
        let mut nodes = Vec::new();
        for (at, name) in masters.iter().enumerate() {
            let (transport, seeds, masters) = (TRANSPORT.to_string(), seeds.join(","), masters.join(","));
            let arguments =
                ["--transport-port", &transport, "--seed-hosts", &seeds, "--masters", &masters, "--heap", heap];
            let hosts = [("http", Machines::from_here(at)), ("transport", Machines::from_others(at))]
                .map(|(which, host)| format!("{which}.host={host}"));
            let settings = hosts.into_iter().chain(SOON_NOTICED.map(String::from));
            let settings = settings.flat_map(|setting| ["-E".to_owned(), setting]);
            let arguments = arguments.map(String::from).into_iter().chain(settings).collect();
            let mut before = Machines::command();
            before.arg(ES);
            let mut node = Node::spawn(before, name, (Machines::from_here(at), HTTP).into(), arguments);
            machines.connect(at, &mut node.child).await;
            nodes.push(node);
        }
        for node in &mut nodes {
            node.started().await;
        }
        Self { nodes, machines: Some(machines) }
    }

    /// From now on, nothing passes between a node and the others.
    pub fn cut_off(&self, node: usize) {
        self.machines.as_ref().expect("see `apart`").cut_off(node);
    }

    /// From now on it does again.
    pub fn heal(&self, node: usize) {
        self.machines.as_ref().expect("see `apart`").heal(node);
    }

    /// Where its nodes listen, in the form of ES_URL.
    pub fn urls(&self) -> String {
        self.nodes.iter().map(Node::url).collect::<Vec<_>>().join(",")
    }

    /// Waits until all nodes are there, as each of them says, with every copy of every shard.
    pub async fn green(&self) {
        let nodes = self.nodes.len();
        for node in &self.nodes {
            let path = format!("_cluster/health?wait_for_nodes={nodes}&wait_for_status=green&timeout=60s");
            let health = get(format!("{}/{path}", node.url())).await;
            assert_eq!(health["timed_out"], false, "{health}");
        }
    }

    /// Which of its nodes has the primary of a shard.
    pub async fn primary_of(&self, index: &str, shard: usize) -> usize {
        self.primary_known_to(0, index, shard).await.expect("it is assigned")
    }

    /// The same as one of them knows it; `None` where it knows of none, or cannot tell for want of a master.
    pub async fn primary_known_to(&self, node: usize, index: &str, shard: usize) -> Option<usize> {
        let path = format!("_cluster/state/routing_table,nodes/{index}?master_timeout=1s");
        let answer = reqwest::get(format!("{}/{path}", self.nodes[node].url())).await.expect("it answers");
        let state: Value = answer.error_for_status().ok()?.json().await.expect("it answers in JSON");
        let routes = state["routing_table"]["indices"].as_object()?.values().next()?;
        let mut copies = routes["shards"][shard.to_string()].as_array()?.iter();
        let primary = copies.find(|copy| copy["primary"] == true && copy["state"] == "STARTED")?["node"].as_str()?;
        state["nodes"][primary]["name"].as_str()?.strip_prefix("node-")?.parse().ok()
    }
}

/// What a node answers to a GET.
async fn get(url: String) -> Value {
    let answer = reqwest::get(url).await.expect("it answers").error_for_status().expect("it can");
    answer.json().await.expect("it answers in JSON")
}

fn become_node(mut before: Command, arguments: &[String]) -> Child {
    before
        .arg("node")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .expect("tests/elastic/es runs")
}
