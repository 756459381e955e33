//! Sockets that always have calls under way, all of them on the record.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt, StreamExt};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::history::{Change, History, State};
use crate::support::{PASSWORD, PATIENCE};

/// How many sockets an admin has.
pub const SOCKETS: usize = 12;
/// How many calls each keeps under way: together well above the 100 that are asked for.
const WINDOW: usize = 20;
/// Sockets that register one user each.
const REGISTRATIONS: usize = 3;
/// Addresses that users compete for.
const SHARED_ADDRESSES: usize = 10;
/// Users that get a fifth of all changes, so that changes of one user meet.
const POPULAR: usize = 5;

/// What a load is to do.
pub struct Plan {
    /// Its sockets take them in turn.
    pub gateways: Vec<SocketAddr>,
    pub admin_token: String,
    /// Distinguishes the values of this load from every other's.
    pub round: usize,
    pub seed: u64,
    /// Whom it changes.
    pub users: Vec<String>,
    /// Whether the store may be away: calls that say so have changed nothing.
    pub may_fail: bool,
}

impl Plan {
    fn gateway(&self, socket: usize) -> SocketAddr {
        self.gateways[socket % self.gateways.len()]
    }
}

/// A running load.
pub struct Load {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

struct Shared {
    plan: Plan,
    history: Mutex<History>,
    /// No further call is sent.
    stopped: AtomicBool,
    answered: Notify,
}

impl Load {
    /// Opens the sockets and begins to call.
    pub async fn start(plan: Plan, before: BTreeMap<String, State>) -> Self {
        let history = Mutex::new(History::new(before));
        let shared = Arc::new(Shared { plan, history, stopped: AtomicBool::new(false), answered: Notify::new() });
        let mut tasks = Vec::new();
        for number in 0..SOCKETS {
            let socket = Socket::open(shared.plan.gateway(number), Some(&shared.plan.admin_token)).await;
            let random = StdRng::seed_from_u64(shared.plan.seed ^ ((number as u64) << 32));
            tasks.push(tokio::spawn(change_users(shared.clone(), socket, number, random)));
        }
        for number in 0..REGISTRATIONS {
            let socket = Socket::open(shared.plan.gateway(number), None).await;
            tasks.push(tokio::spawn(register(shared.clone(), socket, number)));
        }
        Self { shared, tasks }
    }

    /// Waits until so many changes are acknowledged.
    pub async fn acknowledged(&self, count: usize) {
        let enough = async {
            while self.acknowledged_now() < count {
                self.shared.answered.notified().await;
            }
        };
        tokio::time::timeout(PATIENCE, enough).await.expect("the gateway answers in time");
    }

    /// How many changes are acknowledged.
    pub fn acknowledged_now(&self) -> usize {
        self.shared.history.lock().unwrap().acknowledged()
    }

    /// How many calls are not answered.
    pub fn under_way(&self) -> usize {
        self.shared.history.lock().unwrap().open()
    }

    /// Stops sending.
    pub fn stop_sending(&self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
    }

    /// Reads what still comes until every call is answered or its socket has ended, and gives the record.
    pub async fn end(self) -> History {
        for task in self.tasks {
            tokio::time::timeout(PATIENCE, task).await.expect("the socket ends in time").unwrap();
        }
        let shared = Arc::into_inner(self.shared).expect("the tasks have ended");
        shared.history.into_inner().unwrap()
    }
}

/// Keeps a window of changes under way until the load stops or the socket ends.
async fn change_users(shared: Arc<Shared>, mut socket: Socket, number: usize, mut random: StdRng) {
    let mut open: BTreeMap<u64, u64> = BTreeMap::new();
    let mut sent = 0;
    loop {
        while open.len() < WINDOW && !shared.stopped.load(Ordering::SeqCst) {
            sent += 1;
            let stamp = format!("r{} s{number} c{sent}", shared.plan.round);
            let (username, change, method, params) = choose(&shared, &mut random, &stamp);
            let call = shared.history.lock().unwrap().begin(&username, change);
            open.insert(sent, call);
            socket.send(sent, method, &params).await;
        }
        if open.is_empty() {
            return;
        }
        let Some(reply) = socket.next().await else { return };
        let Some(id) = reply["id"].as_u64() else { continue }; // a notification
        shared.resolve(open.remove(&id).expect("an answer to a call"), &reply);
    }
}

/// Makes one user by `auth.register`, which takes as long as a hash.
async fn register(shared: Arc<Shared>, mut socket: Socket, number: usize) {
    let username = format!("registered-{}-{number}", shared.plan.round);
    let email = format!("{username}@example.com");
    let call = shared.history.lock().unwrap().begin(&username, Change::Create { email: email.clone() });
    let params = json!({"username": username, "email": email, "password": PASSWORD});
    socket.send(1, "auth.register", &params).await;
    while let Some(reply) = socket.next().await {
        if reply["id"] == 1 {
            return shared.resolve(call, &reply);
        }
    }
}

/// The next change: most are updates, of which some are conditional and some claim an address that others want too.
fn choose(shared: &Shared, random: &mut StdRng, stamp: &str) -> (String, Change, &'static str, Value) {
    let plan = &shared.plan;
    let popular = random.random_ratio(1, 5);
    let among = if popular { &plan.users[..POPULAR] } else { &plan.users[..] };
    let username = among.choose(random).expect("there are users").clone();
    match random.random_range(0..100) {
        0..80 => {
            let mut patch = json!({"display_name": stamp, "bio": stamp, "attributes": {"stamp": stamp}});
            let email = random.random_ratio(1, 10).then(|| {
                let shared = format!("shared{}@example.com", random.random_range(0..SHARED_ADDRESSES));
                patch["email"] = json!(shared);
                shared
            });
            let mut params = json!({"username": username, "patch": patch});
            let if_rev = match random.random_ratio(1, 10) {
                true => shared.history.lock().unwrap().rev_before(&username),
                false => None,
            };
            if let Some(rev) = if_rev {
                params["if_rev"] = json!(rev);
            }
            (username, Change::Update { stamp: stamp.to_owned(), email, if_rev }, "users.update", params)
        }
        80..86 => {
            let params = json!({"username": username, "reason": stamp});
            (username, Change::Activate(false), "users.deactivate", params)
        }
        86..92 => (username.clone(), Change::Activate(true), "users.reactivate", json!({"username": username})),
        92..99 => {
            let admin = random.random_bool(0.5);
            let role = if admin { "admin" } else { "user" };
            let params = json!({"username": username, "role": role});
            (username, Change::MakeAdmin(admin), "users.set_role", params)
        }
        _ => {
            // Few names, so that two want one at the same time.
            let username = format!("created-{}-{}", plan.round, random.random_range(0..3));
            let email = format!("{}@example.com", stamp.replace(' ', "-"));
            let params = json!({"username": username, "email": email, "password": PASSWORD});
            (username, Change::Create { email }, "users.create", params)
        }
    }
}

impl Shared {
    /// Puts an answer on the record.
    fn resolve(&self, call: u64, reply: &Value) {
        let code = reply["error"]["code"].as_i64();
        // Taken, another revision, too many hashes waiting, no store: each says that nothing was changed. 1503 says that
        // the change may or may not have been made, so it leaves the call unanswered.
        let known = match code {
            None | Some(1202 | 1203 | 1303 | 1503) => true,
            Some(code) => self.plan.may_fail && matches!(code, 1501 | 1502),
        };
        assert!(known, "an answer that this load cannot provoke: {reply}");
        let mut history = self.history.lock().unwrap();
        match code {
            None => history.acknowledge(call, State::read(&reply["result"]["user"])),
            Some(1503) => {}
            Some(_) => history.refuse(call),
        }
        drop(history);
        self.answered.notify_one();
    }
}

/// A socket whose end is no failure.
struct Socket {
    ws: WebSocketStream<TcpStream>,
}

impl Socket {
    async fn open(address: SocketAddr, token: Option<&str>) -> Self {
        let mut request = format!("ws://{address}/rpc").into_client_request().expect("a good URL");
        if let Some(token) = token {
            let value = format!("Bearer {token}").parse().expect("a token is ASCII");
            request.headers_mut().insert("authorization", value);
        }
        let stream = TcpStream::connect(address).await.expect("the gateway listens");
        let (ws, _) = client_async(request, stream).await.expect("the gateway upgrades");
        Self { ws }
    }

    /// Sends a call. One that cannot be sent any more is one that is not answered.
    async fn send(&mut self, id: u64, method: &str, params: &Value) {
        let call = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let _ = self.ws.send(Message::text(call.to_string())).await;
    }

    /// The next reply or notification; `None` at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.ws.next()).await.expect("the gateway answers in time");
            match next?.ok()? {
                Message::Text(text) => return Some(serde_json::from_str(&text).expect("frames are JSON")),
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }
}
