//! The sockets of this node by user, so that "all of alice's sockets" costs only her sockets.

use std::collections::HashSet;
use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use serde_json::json;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use uuid::Uuid;

use super::{Closing, Identity, Outbound, Peer, When};
use crate::users::Username;

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

/// Why a socket was not signed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unbound {
    /// It belongs to another user.
    OtherUser,
    /// The user has as many sockets as they may.
    TooMany,
    /// It has closed.
    Left,
}

/// The signed-in sockets of this node.
#[derive(Debug, Default)]
pub struct Presence {
    users: DashMap<String, Vec<Arc<Peer>>>,
}

impl Presence {
    /// Signs a socket in under its identity, or extends it. Calls of one socket run beside each other: who comes second meets
    /// what the first has done.
    pub fn bind(&self, peer: &Arc<Peer>, identity: Identity, max_sockets: usize) -> Result<(), Unbound> {
        let left = peer.lock_binding();
        if *left {
            return Err(Unbound::Left);
        }
        match peer.identity() {
            None => return self.join(peer, identity, max_sockets),
            Some(current) if current.account.user().username != identity.account.user().username => {
                return Err(Unbound::OtherUser);
            }
            Some(_) => peer.identify(identity),
        }
        Ok(())
    }

    /// Adds a socket, unless the user already has `max_sockets`.
    fn join(&self, peer: &Arc<Peer>, identity: Identity, max_sockets: usize) -> Result<(), Unbound> {
        let mut peers = self.users.entry(identity.account.user().username.key()).or_default();
        if peers.len() >= max_sockets {
            return Err(Unbound::TooMany);
        }
        peers.push(peer.clone());
        // Before others see the socket there: a revocation asks by what it has signed in.
        peer.identify(identity);
        Ok(())
    }

    /// Removes a socket that has closed. A call that was cut off may still be in the middle of a step: what it binds later is
    /// refused.
    pub fn leave(&self, peer: &Arc<Peer>) {
        let mut left = peer.lock_binding();
        *left = true;
        let Some(identity) = peer.identity() else { return };
        let key = identity.account.user().username.key();
        if let Entry::Occupied(mut peers) = self.users.entry(key) {
            peers.get_mut().retain(|other| other.id != peer.id);
            if peers.get().is_empty() {
                peers.remove();
            }
        }
    }

    /// Tells those of a user's sockets whose identity `is_meant` that they are revoked, and closes them. The socket with
    /// the id `actor` closes only after its reply.
    pub fn revoke(
        &self,
        user: &Username,
        revocation: Revocation,
        actor: Option<u64>,
        is_meant: impl Fn(&Identity) -> bool,
    ) -> Revoked {
        let Revocation { code, reason } = revocation;
        let mut sessions = HashSet::new();
        let mut sockets = 0;
        for (peer, identity) in self.peers_of(user) {
            if !is_meant(&identity) {
                continue;
            }
            sessions.insert(identity.session.session.id);
            sockets += 1;
            let Some(mailbox) = &peer.mailbox else { continue };
            let told = Some(notification("auth.revoked", &json!({"reason": reason})));
            let when = if actor == Some(peer.id) { When::AfterReplies } else { When::Now };
            // In one piece: the call that revokes and the feed of what was revoked may both come here, and are told once.
            mailbox.post(Outbound::Close(Closing { told, code, reason }, when));
        }
        Revoked { sessions: sessions.len(), sockets }
    }

    /// Closes every socket, and knows none any more.
    pub fn forget(&self, code: u16, reason: &'static str) {
        self.users.retain(|_, peers| {
            for mailbox in peers.iter().filter_map(|peer| peer.mailbox.as_ref()) {
                mailbox.close(code, reason);
            }
            false
        });
    }

    /// A user's sockets here, with what signed each in.
    fn peers_of(&self, user: &Username) -> impl Iterator<Item = (Arc<Peer>, Identity)> + use<> {
        let peers = self.users.get(&user.key()).map(|peers| peers.clone()).unwrap_or_default();
        peers.into_iter().filter_map(|peer| peer.identity().map(|identity| (peer, identity)))
    }

    /// How many sockets a session of a user has here.
    pub fn sockets_in(&self, user: &Username, session: Uuid) -> usize {
        self.peers_of(user).filter(|(_, identity)| identity.session.session.id == session).count()
    }

    /// How many signed-in sockets a user has here.
    pub fn sockets_of(&self, username: &Username) -> usize {
        self.users.get(&username.key()).map_or(0, |peers| peers.len())
    }
}

/// The frame of a notification.
pub fn notification(method: &str, params: &serde_json::Value) -> Utf8Bytes {
    json!({"jsonrpc": "2.0", "method": method, "params": params}).to_string().into()
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Barrier;

    use super::*;
    use crate::clock::Time;
    use crate::sessions::{Accounts, KnownSessions, Mailbox};
    use crate::users::rules::{self, Act};
    use crate::users::session::{Lifetimes, Origin};
    use crate::users::{Email, Role, Session};

    const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn identity(name: &str) -> Identity {
        let (username, email) = (Username::parse(name).unwrap(), Email::parse(&format!("{name}@example.com")).unwrap());
        let now = Time::from_ms(0);
        let user = rules::create(username, email, None, Role::User, Act { actor: None, at: now, reason: None });
        let life = std::time::Duration::from_secs(60);
        let (lifetimes, origin) =
            (Lifetimes { idle: life, whole: life }, Origin { address: ADDRESS, user_agent: None });
        let session = KnownSessions::default().insert(Session::begin(&user, None, origin, now, lifetimes));
        let generation = user.generation;
        Identity { account: Accounts::default().insert(&Arc::new(user)), session, generation, expires_at: now }
    }

    fn socket() -> Arc<Peer> {
        Arc::new(Peer::new(1, ADDRESS, None, Some(Mailbox::default())))
    }

    fn sockets_of(presence: &Presence, name: &str) -> usize {
        presence.sockets_of(&Username::parse(name).unwrap())
    }

    #[test]
    fn s18_two_users_who_sign_in_on_one_socket_at_once_are_not_both_signed_in() {
        let (alice, bob) = (identity("alice"), identity("bob"));
        for _ in 0..2_000 {
            let (presence, peer, together) = (Presence::default(), socket(), Barrier::new(2));
            let bound = [&alice, &bob].map(|identity| {
                let (presence, peer, together) = (&presence, &peer, &together);
                move || {
                    together.wait();
                    presence.bind(peer, identity.clone(), 20)
                }
            });
            let outcomes =
                std::thread::scope(|scope| bound.map(|bind| scope.spawn(bind)).map(|thread| thread.join().unwrap()));
            assert!(outcomes.contains(&Ok(())) && outcomes.contains(&Err(Unbound::OtherUser)), "{outcomes:?}");
            assert_eq!(sockets_of(&presence, "alice") + sockets_of(&presence, "bob"), 1);
        }
    }

    #[test]
    fn s14_a_socket_that_is_revoked_from_two_sides_at_once_is_told_so_once() {
        let (alice, presence, together) = (identity("alice"), Presence::default(), Barrier::new(2));
        let name = Username::parse("alice").unwrap();
        for _ in 0..2_000 {
            let peer = socket();
            presence.bind(&peer, alice.clone(), 1).unwrap();
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        together.wait();
                        presence.revoke(&name, Revocation { reason: "session_ended", code: 4503 }, None, |_| true);
                    });
                }
            });
            let mailbox = peer.mailbox.as_ref().unwrap();
            let outbound: Vec<Outbound> = std::iter::from_fn(|| mailbox.try_next()).collect();
            let tells =
                |it: &&Outbound| matches!(it, Outbound::Frame(_) | Outbound::Close(Closing { told: Some(_), .. }, _));
            assert_eq!(outbound.iter().filter(tells).count(), 1, "{outbound:?}");
            presence.leave(&peer);
        }
    }

    #[test]
    fn s18_a_call_that_outlives_its_socket_does_not_sign_it_in() {
        let (presence, peer) = (Presence::default(), socket());
        presence.leave(&peer);
        assert_eq!(presence.bind(&peer, identity("alice"), 20).err(), Some(Unbound::Left));
        assert_eq!((sockets_of(&presence, "alice"), peer.identity().is_none()), (0, true));
    }

    #[test]
    fn s18_a_socket_signs_in_once_and_is_extended_after() {
        let (presence, peer) = (Presence::default(), socket());
        for _ in 0..2 {
            presence.bind(&peer, identity("alice"), 1).unwrap();
            assert_eq!(sockets_of(&presence, "alice"), 1);
        }
        assert_eq!(peer.identity_version(), 2);
        assert_eq!(presence.bind(&socket(), identity("alice"), 1).err(), Some(Unbound::TooMany));
        presence.leave(&peer);
        assert_eq!(sockets_of(&presence, "alice"), 0);
    }
}
