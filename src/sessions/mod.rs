//! Who is connected, and as whom.
//!
//! A [`Peer`] is one connection (or one HTTP request); signing in gives it an [`Identity`]. Sockets of
//! one user share one [`Account`], whose user every change replaces: a permission check needs no store.

mod mailbox;
mod presence;
mod sockets;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde::Serialize;
use uuid::Uuid;

pub use mailbox::{Mailbox, Outbound, When};
pub use presence::{Presence, Revocation, Revoked, notification};
pub use sockets::{Admission, Anonymous, Full, Sockets};

use crate::clock::Time;
use crate::permission::{Caller, Target};
use crate::users::{Status, User, Username};

/// A user as this node knows it now.
#[derive(Debug)]
pub struct Account {
    user: RwLock<Arc<User>>,
}

impl Account {
    /// The account of a user just read.
    pub fn new(user: Arc<User>) -> Self {
        Self { user: RwLock::new(user) }
    }

    /// The newest state known.
    pub fn user(&self) -> Arc<User> {
        self.user.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over a newer state; an older one is ignored. Answers with the state it replaced.
    pub fn update(&self, user: &Arc<User>) -> Option<Arc<User>> {
        let mut current = self.user.write().unwrap_or_else(PoisonError::into_inner);
        (user.rev > current.rev).then(|| std::mem::replace(&mut *current, user.clone()))
    }
}

/// One login, as its owner sees it.
#[derive(Debug, Clone, Serialize)]
pub struct Session {
    /// Its id.
    pub id: Uuid,
    /// What the client called itself at login; `None` when it did not.
    pub device: Option<String>,
    /// From where it was last seen.
    pub address: IpAddr,
    /// The `User-Agent` it was last seen with.
    pub user_agent: Option<String>,
    /// When it began.
    pub created_at: Time,
    /// Whether it is the caller's own.
    pub current: bool,
}

/// Whose connection it is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The user, kept current.
    pub account: Arc<Account>,
    /// The session that the access token names.
    pub session: Uuid,
    /// The generation of the token; an older one than the user's is no longer good.
    pub generation: u64,
    /// When the access token expires.
    pub expires_at: Time,
}

impl Identity {
    /// Whether it has not been revoked: the account can be used and the token is of its generation.
    pub fn is_current(&self) -> bool {
        let user = self.account.user();
        user.status == Status::Active && self.generation == user.generation
    }
}

/// One connection, or one HTTP request.
#[derive(Debug)]
pub struct Peer {
    /// Unique in this process; 0 for an HTTP request.
    pub id: u64,
    /// The client's address.
    pub address: IpAddr,
    /// The `User-Agent` of its request, cut to 256 characters.
    pub user_agent: Option<Box<str>>,
    /// The way to its socket; `None` for an HTTP request.
    pub mailbox: Option<Mailbox>,
    identity: Mutex<Option<Identity>>,
    /// Counts sign-ins and extensions, so that the socket's task notices them.
    identity_version: AtomicU32,
    /// Access tokens refused on this connection.
    refused_tokens: AtomicU32,
    /// Whether an account is being made on this socket.
    registering: AtomicBool,
}

/// The only registration under way on a socket, until dropped.
#[derive(Debug)]
pub struct Registering<'a>(&'a AtomicBool);

impl Drop for Registering<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Peer {
    /// A connection that has not signed in.
    pub fn new(id: u64, address: IpAddr, user_agent: Option<Box<str>>, mailbox: Option<Mailbox>) -> Self {
        Self {
            id,
            address,
            user_agent,
            mailbox,
            identity: Mutex::new(None),
            identity_version: AtomicU32::new(0),
            refused_tokens: AtomicU32::new(0),
            registering: AtomicBool::new(false),
        }
    }

    /// Who signed in, or `None`.
    pub fn identity(&self) -> Option<Identity> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Signs the connection in, or extends it.
    pub fn identify(&self, identity: Identity) {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = Some(identity);
        self.identity_version.fetch_add(1, Ordering::Release);
    }

    /// Grows with every sign-in and extension.
    pub fn identity_version(&self) -> u32 {
        self.identity_version.load(Ordering::Acquire)
    }

    /// Begins to make an account; `None` on a socket that belongs to a user or is making one already.
    pub fn register_alone(&self) -> Option<Registering<'_>> {
        let is_socket = self.mailbox.is_some();
        if is_socket && (self.identity().is_some() || self.registering.swap(true, Ordering::AcqRel)) {
            return None;
        }
        Some(Registering(&self.registering))
    }

    /// Counts a refused access token and answers how many there have been.
    pub fn count_refused_token(&self) -> u32 {
        self.refused_tokens.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The caller that this connection makes: nobody once the identity has been revoked.
    pub fn caller(&self) -> CallerUser {
        let identity = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        let user = identity.as_ref().filter(|identity| identity.is_current()).map(|identity| identity.account.user());
        CallerUser { user }
    }
}

/// The user behind a call at the moment it is judged; nobody before sign-in.
#[derive(Debug, Clone)]
pub struct CallerUser {
    /// `None` before sign-in.
    pub user: Option<Arc<User>>,
}

impl CallerUser {
    /// The row of the permission table.
    pub fn kind(&self) -> Caller {
        self.user.as_ref().map_or(Caller::Anonymous, |user| Caller::from_role(user.role))
    }

    /// How a user relates to the caller.
    pub fn target(&self, username: &Username) -> Target {
        match &self.user {
            Some(user) if user.username == *username => Target::Oneself,
            _ => Target::Another,
        }
    }
}
