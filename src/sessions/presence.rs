//! The sockets of this node by user, so that "all of alice's sockets" costs only her sockets.

use std::collections::HashSet;
use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use serde_json::json;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::{Account, Identity, Outbound, Peer, When};
use crate::users::{User, Username};

/// Why sockets are closed, as `auth.revoked` and the close frame say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revocation {
    /// The `reason` of `auth.revoked` and of the close frame.
    pub reason: &'static str,
    /// The close code.
    pub code: u16,
}

/// What a revocation ended on this node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Revoked {
    /// Distinct sessions that had open sockets.
    pub sessions: usize,
    /// Sockets that were told to close.
    pub sockets: usize,
}

/// The signed-in sockets of this node.
#[derive(Debug, Default)]
pub struct Presence {
    users: DashMap<String, Online>,
}

#[derive(Debug)]
struct Online {
    account: Arc<Account>,
    peers: Vec<Arc<Peer>>,
}

impl Presence {
    /// The account of a user who has open sockets here.
    pub fn account(&self, key: &str) -> Option<Arc<Account>> {
        self.users.get(key).map(|online| online.account.clone())
    }

    /// Adds a socket under its identity and answers with the account that all sockets of the user share.
    /// `None` when the user already has `max_sockets`.
    pub fn join(&self, peer: &Arc<Peer>, mut identity: Identity, max_sockets: usize) -> Option<Arc<Account>> {
        let user = identity.account.user();
        let account = match self.users.entry(user.username.key()) {
            Entry::Occupied(mut online) => {
                let online = online.get_mut();
                if online.peers.len() >= max_sockets {
                    return None;
                }
                online.account.update(&user);
                online.peers.push(peer.clone());
                online.account.clone()
            }
            Entry::Vacant(vacant) => {
                let account = identity.account.clone();
                vacant.insert(Online { account: account.clone(), peers: vec![peer.clone()] });
                account
            }
        };
        identity.account = account.clone();
        peer.identify(identity);
        Some(account)
    }

    /// Removes a socket that has closed.
    pub fn leave(&self, peer: &Arc<Peer>) {
        let Some(identity) = peer.identity() else { return };
        let key = identity.account.user().username.key();
        if let Entry::Occupied(mut online) = self.users.entry(key) {
            let peers = &mut online.get_mut().peers;
            peers.retain(|other| other.id != peer.id);
            if peers.is_empty() {
                online.remove();
            }
        }
    }

    /// Tells the user's sockets whose token is older than the user's generation, or all of them when the
    /// account cannot be used any more, that they are revoked, and closes them. The socket with
    /// the id `actor` closes only after its reply.
    pub fn revoke(&self, user: &User, revocation: Revocation, actor: Option<u64>) -> Revoked {
        let key = user.username.key();
        let peers = self.users.get(&key).map(|online| online.peers.clone()).unwrap_or_default();
        let mut sessions = HashSet::new();
        let mut sockets = 0;
        for peer in &peers {
            let Some(identity) = peer.identity() else { continue };
            if identity.generation >= user.generation && user.status == crate::users::Status::Active {
                continue;
            }
            sessions.insert(identity.session);
            sockets += 1;
            let Some(mailbox) = &peer.mailbox else { continue };
            let Revocation { code, reason } = revocation;
            let told = notification("auth.revoked", &json!({"reason": reason}));
            if actor == Some(peer.id) {
                mailbox.post(Outbound::Close { code, reason, when: When::AfterReplies(Some(told)) });
            } else {
                mailbox.post(Outbound::Frame(told));
                mailbox.close(code, reason);
            }
        }
        Revoked { sessions: sessions.len(), sockets }
    }

    /// How many signed-in sockets a user has here.
    pub fn sockets_of(&self, username: &Username) -> usize {
        self.users.get(&username.key()).map_or(0, |online| online.peers.len())
    }
}

/// The frame of a notification.
pub fn notification(method: &str, params: &serde_json::Value) -> Utf8Bytes {
    json!({"jsonrpc": "2.0", "method": method, "params": params}).to_string().into()
}
