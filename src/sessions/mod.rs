//! Who is connected, and as whom.
//!
//! A [`Peer`] is one connection (or one HTTP request); signing in gives it an [`Identity`]. Sockets of
//! one user share one [`Account`], whose user every change replaces: a permission check needs no store.

mod account;
mod budget;
mod known;
mod mailbox;
mod presence;
mod proof;
mod registry;
mod sockets;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

pub use account::{Account, Accounts};
pub use budget::{Bucket, Budget};
pub use known::{Known, KnownSessions};
pub use mailbox::{Closing, Mailbox, Outbound, STALLED, When};
pub use presence::{Presence, Revocation, Revoked, Unbound, notification};
pub use proof::{About, Lost, Proof, ProvenPassword};
pub use sockets::{Admission, Anonymous, Full, Sockets};

use crate::clock::Time;
use crate::permission::{Caller, Target};
use crate::users::session::Origin;
use crate::users::{Status, User, Username};

/// Whose connection it is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The user, kept current.
    pub account: Arc<Account>,
    /// The session that the access token names.
    pub session: Arc<Known>,
    /// The generation of the token; an older one than the user's is no longer good. A newer one is of a change that this
    /// node is about to apply.
    pub generation: u64,
    /// When the access token expires.
    pub expires_at: Time,
}

impl Identity {
    /// Its user, unless it has been revoked: the account can be used, the token is of its generation, the session goes on.
    pub fn current_user(&self) -> Option<Arc<User>> {
        let user = self.account.user();
        let is_current = user.status == Status::Active
            && self.generation >= user.generation
            && !self.session.is_ended()
            && !self.account.is_forgotten();
        is_current.then_some(user)
    }

    /// Whether it has not been revoked.
    pub fn is_current(&self) -> bool {
        self.current_user().is_some()
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
    /// Held for the whole of a sign-in and of leaving; whether it has left.
    binding: Mutex<bool>,
    /// Counts sign-ins and extensions, so that the socket's task notices them.
    identity_version: AtomicU32,
    /// Access tokens refused on this connection since the last good one.
    refused_tokens: AtomicU32,
    /// Whether an account is being made on this socket.
    registering: AtomicBool,
    /// What is left of the refusals of calls that it may run into.
    refusals: Bucket,
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
            binding: Mutex::new(false),
            identity_version: AtomicU32::new(0),
            refused_tokens: AtomicU32::new(0),
            registering: AtomicBool::new(false),
            refusals: Bucket::default(),
        }
    }

    /// From where it speaks.
    pub fn origin(&self) -> Origin {
        Origin { address: self.address, user_agent: self.user_agent.as_deref().map(str::to_owned) }
    }

    /// Who signed in, or `None`.
    pub fn identity(&self) -> Option<Identity> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps other sign-ins of this socket, and its leaving, waiting.
    fn lock_binding(&self) -> MutexGuard<'_, bool> {
        self.binding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Signs the connection in, or extends it. Of a socket only [`Presence`] does, which knows who is there.
    pub fn identify(&self, identity: Identity) {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = Some(identity);
        self.refused_tokens.store(0, Ordering::Relaxed);
        self.identity_version.fetch_add(1, Ordering::Release);
    }

    /// Has its socket's identity of this session outlive a change that made the user's generation this. Of an HTTP request
    /// the old token is remembered, which does not outlive the change.
    pub fn outlive(&self, session: Uuid, generation: u64) {
        let mut identity = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        if self.mailbox.is_some()
            && let Some(identity) = identity.as_mut().filter(|identity| identity.session.session.id == session)
        {
            identity.generation = generation;
        }
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

    /// Counts a refused access token and answers how many there have been since a good one.
    pub fn count_refused_token(&self) -> u32 {
        self.refused_tokens.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The caller that this connection makes: nobody once the identity has been revoked.
    pub fn caller(&self) -> CallerUser {
        CallerUser::of(self.identity.lock().unwrap_or_else(PoisonError::into_inner).as_ref())
    }

    /// The caller of a call made `now`, which is taken from their budget: the user's, or before sign-in the address's.
    ///
    /// Errors: how long until the next call is let through.
    pub fn call(&self, budget: &Budget, now: Instant) -> Result<CallerUser, Duration> {
        let identity = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = identity.as_ref().map_or_else(|| budget.of_address(self.address), |is| &is.account.calls);
        budget.take(bucket, now).map(|()| CallerUser::of(identity.as_ref()))
    }

    /// Counts a refused call, and closes the socket of one who goes on regardless: refused as often as a bucket holds calls.
    pub fn refuse_call(&self, budget: &Budget, now: Instant) {
        if let (Some(mailbox), Err(_)) = (&self.mailbox, budget.take(&self.refusals, now)) {
            mailbox.post(Outbound::close(4004, "too many requests", When::AfterReplies));
        }
    }
}

/// The user behind a call at the moment it is judged; nobody before sign-in.
#[derive(Debug, Clone)]
pub struct CallerUser {
    /// `None` before sign-in.
    pub user: Option<Arc<User>>,
}

impl CallerUser {
    fn of(identity: Option<&Identity>) -> Self {
        Self { user: identity.and_then(Identity::current_user) }
    }

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
