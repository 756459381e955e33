//! `auth.*`: making an account, logging in, and signing a socket in.

use std::sync::Arc;
use std::time::Duration;

use jsonrpsee::Extensions;
use jsonrpsee::proc_macros::rpc;
use metrics::counter;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::error::{FieldError, RpcError};
use super::feed::{Resumed, SubscribeParams};
use super::params::Named;
use super::sessions::{SessionView, TokenSet};
use super::{Context, Handlers, UserView, patience, peer_of};
use crate::auth::hashing::{Busy, Verdict};
use crate::auth::password::Password;
use crate::auth::throttle::{Attempt, TooMany};
use crate::auth::token::Claims;
use crate::clock::Time;
use crate::metrics::THROTTLED;
use crate::permission::Method;
use crate::sessions::{Account, Identity, Outbound, Peer, Proof, Unbound, When};
use crate::store::{PasswordHash, StoreError, Unique};
use crate::users::rules::{self, Act};
use crate::users::session::Origin;
use crate::users::user;
use crate::users::{Email, Role, Session, Status, User, Username, text};

/// The longest name that a client may give its device, in characters.
const DEVICE_MAX_CHARS: usize = 64;
/// The time that a look-up for a login takes seems to be a multiple of this: several times what one takes.
const LOOKING_UP: Duration = Duration::from_millis(10);
/// Refused access tokens in a row on one socket before it is closed.
const MAX_REFUSED_TOKENS: u32 = 3;

/// Parameters of `auth.register`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterParams {
    /// The name to take for good.
    pub username: String,
    /// A private address.
    pub email: String,
    /// In the clear; never kept.
    pub password: SecretString,
    /// The username when absent or null.
    #[serde(default)]
    pub display_name: Option<String>,
    /// What the client calls itself.
    #[serde(default)]
    pub device: Option<String>,
}

/// Parameters of `auth.login`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoginParams {
    /// A username or an e-mail address.
    pub login: String,
    /// In the clear; never kept.
    pub password: SecretString,
    /// What the client calls itself.
    #[serde(default)]
    pub device: Option<String>,
}

/// Parameters of `auth.authenticate`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthenticateParams {
    /// A token from `auth.register` or `auth.login`.
    pub access_token: SecretString,
    /// Subscriptions to open as well, in one round trip.
    #[serde(default)]
    pub resume: Option<Vec<SubscribeParams>>,
}

/// Result of `auth.register` and `auth.login`.
#[derive(Clone, Serialize)]
pub struct SignedIn {
    user: UserView,
    session: SessionView,
    tokens: TokenSet,
}

/// Result of `auth.authenticate`.
#[derive(Clone, Serialize)]
pub struct Authenticated {
    user: UserView,
    session: SessionView,
    expires_at: Time,
    /// In the order of `resume`; absent without.
    #[serde(skip_serializing_if = "Option::is_none")]
    subscriptions: Option<Vec<Resumed>>,
}

/// The methods of the namespace.
#[rpc(server, namespace = "auth", namespace_separator = ".")]
pub trait Auth {
    /// `auth.register`: a new account, signed in.
    ///
    /// Errors: `AlreadyExists`, `WeakPassword`, `TooManyLogins`, `ServerBusy`; on a socket `OtherIdentity`.
    #[method(name = "register", with_extensions)]
    async fn register(&self, params: Named<RegisterParams>) -> Result<SignedIn, RpcError>;

    /// `auth.login`: a session for the holder of a password; binds a socket.
    ///
    /// Errors: `BadCredentials`, `TooManyLogins`, `ServerBusy`; on a socket `OtherIdentity`.
    #[method(name = "login", with_extensions)]
    async fn login(&self, params: Named<LoginParams>) -> Result<SignedIn, RpcError>;

    /// `auth.authenticate`: signs this socket in with an access token, or extends it.
    ///
    /// Errors: `TokenExpired`, `TokenInvalid`, `SessionEnded`, `OtherIdentity`.
    #[method(name = "authenticate", with_extensions)]
    async fn authenticate(&self, params: Named<AuthenticateParams>) -> Result<Authenticated, RpcError>;
}

#[jsonrpsee::core::async_trait]
impl AuthServer for Handlers {
    async fn register(&self, extensions: &Extensions, params: Named<RegisterParams>) -> Result<SignedIn, RpcError> {
        let (peer, params) = (peer_of(extensions)?, params.get()?);
        let device = checked_device(params.device)?;
        // A new account is nobody who could be signed in here: refused before it is made.
        let _alone = peer.register_alone().ok_or(RpcError::OtherIdentity)?;
        let new = NewUser::check(&params.username, &params.email, params.display_name.as_deref())?;
        self.throttle
            .registration(peer.address)
            .inspect_err(|refused| audit_throttled("registration", peer, refused))?;
        let act = Act { actor: Some(new.username.clone()), at: self.clock.now(), reason: None };
        let proof = Proof::new(peer, Method::AuthRegister);
        let until = patience(self, extensions);
        let account = self.create_user(&proof, new, &params.password, Role::User, act, until).await?;
        let user = account.user();
        self.remember_address(&user, peer);
        self.open_session(peer, account, user, device).await.map_err(RpcError::after_a_write)
    }

    async fn login(&self, extensions: &Extensions, params: Named<LoginParams>) -> Result<SignedIn, RpcError> {
        let (peer, params) = (peer_of(extensions)?, params.get()?);
        let device = checked_device(params.device)?;
        // People and their phones add blanks, which are in no name and no address.
        let login = params.login.trim();
        // A password beyond the limits can be nobody's; it is refused unread, like any wrong one.
        let password =
            Password::parse(params.password.expose_secret()).map_err(|refusal| RpcError::param("password", refusal))?;
        let mut attempt = self.attempt(login, peer)?;
        let (account, user) = match self.prove(login, password, peer, &mut attempt, patience(self, extensions)).await {
            Ok(proven) => proven,
            Err(RpcError::BadCredentials) => {
                attempt.failed();
                return Err(RpcError::BadCredentials);
            }
            Err(error) => {
                attempt.void();
                return Err(error);
            }
        };
        attempt.succeeded();
        self.remember_address(&user, peer);
        let username = user.username.clone();
        let signed_in = self.open_session(peer, account, user, device).await?;
        tracing::info!(target: "audit", event = "logged_in", user = %username, address = %peer.address);
        Ok(signed_in)
    }

    async fn authenticate(
        &self,
        extensions: &Extensions,
        params: Named<AuthenticateParams>,
    ) -> Result<Authenticated, RpcError> {
        let (peer, params) = (peer_of(extensions)?, params.get()?);
        let identity = match self.identity_of(params.access_token.expose_secret(), || peer.origin()).await {
            Ok(identity) => identity,
            Err(error) => {
                let bad = matches!(error, RpcError::TokenExpired | RpcError::TokenInvalid | RpcError::SessionEnded);
                if let (true, Some(mailbox)) = (bad && peer.count_refused_token() >= MAX_REFUSED_TOKENS, &peer.mailbox)
                {
                    mailbox.post(Outbound::close(4500, "invalid token", When::AfterReplies));
                }
                return Err(error);
            }
        };
        let (session, expires_at) = (identity.session.clone(), identity.expires_at);
        let account = identity.account.clone();
        self.bind(peer, identity)?;
        let session =
            self.session_view(session.session.seen(peer.origin(), self.clock.now()), Some(session.session.id));
        let subscriptions = match params.resume {
            Some(resume) => Some(self.resume(extensions, resume).await),
            None => None,
        };
        Ok(Authenticated { user: UserView::of_oneself(account.user()), session, expires_at, subscriptions })
    }
}

/// The checked parts of a user to be made.
pub(super) struct NewUser {
    pub(super) username: Username,
    email: Email,
    display_name: Option<String>,
}

impl NewUser {
    /// Checks each part and tells every refusal at once.
    pub(super) fn check(username: &str, email: &str, display_name: Option<&str>) -> Result<Self, RpcError> {
        let username = Username::parse(username).and_then(|name| name.check_reserved().map(|()| name));
        let email = Email::parse(email);
        let display_name = display_name.map(user::display_name).transpose();
        match (username, email, display_name) {
            (Ok(username), Ok(email), Ok(display_name)) => Ok(Self { username, email, display_name }),
            (username, email, display_name) => {
                let refusals =
                    [("username", username.err()), ("email", email.err()), ("display_name", display_name.err())];
                let fields = refusals.into_iter().filter_map(|(path, refusal)| Some(FieldError::new(path, refusal?)));
                Err(RpcError::InvalidParams(fields.collect()))
            }
        }
    }
}

impl Context {
    /// Makes a user with a password that the policy accepts.
    pub(super) async fn create_user(
        &self,
        proof: &Proof,
        new: NewUser,
        password: &SecretString,
        role: Role,
        act: Act,
        until: Instant,
    ) -> Result<Arc<Account>, RpcError> {
        // Before the costly hash; the store decides once more when it writes.
        if self.directory.account(&new.username).await?.is_some() {
            return Err(StoreError::AlreadyExists(Unique::Username).into());
        }
        if self.store.user_get_by_email(&new.email).await?.is_some() {
            return Err(StoreError::AlreadyExists(Unique::Email).into());
        }
        let hash = self.new_password_hash("password", password, &new.username, new.email.as_str(), until).await?;
        let user = rules::create(new.username, new.email, new.display_name, role, act);
        self.directory.create(proof, user, hash).await
    }

    /// The hash of a new password that the policy accepts.
    ///
    /// Errors: `WeakPassword` naming the parameter `path`; `ServerBusy`.
    pub(super) async fn new_password_hash(
        &self,
        path: &str,
        password: &SecretString,
        username: &Username,
        email: &str,
        until: Instant,
    ) -> Result<PasswordHash, RpcError> {
        let password = password.expose_secret();
        let hash = self.hashed(until, self.hasher.hash_new(&self.policy, password, username.as_str(), email)).await?;
        hash.map_err(|refusal| RpcError::WeakPassword(FieldError::new(path, refusal)))
    }

    /// Waits for the hashing pool, until then: what has only waited is `ServerBusy`.
    pub(super) async fn hashed<T>(
        &self,
        until: Instant,
        work: impl Future<Output = Result<T, Busy>>,
    ) -> Result<T, RpcError> {
        match tokio::time::timeout_at(until, work).await {
            Ok(done) => Ok(done?),
            Err(_) => Err(RpcError::ServerBusy { retry_after: self.config.call_timeout.mul_f64(0.8) }),
        }
    }

    /// Replaces a hash of lower cost, beside the login, which does not depend on it. One at a time: a greater cost makes
    /// every first login ask for it, and none may wait for a thread because of that.
    fn upgrade_hash(&self, username: Username, password: Password, old: PasswordHash) {
        let Ok(turn) = self.upgrading.clone().try_lock_owned() else { return };
        let (hasher, store) = (self.hasher.clone(), self.store.clone());
        tokio::spawn(async move {
            let _turn = turn;
            let Ok(new) = hasher.hash(password).await else { return };
            if let Err(error) = store.password_upgrade(&username, old, new).await {
                tracing::warn!(%error, "a password hash of lower cost stays");
            }
        });
    }

    /// Begins an attempt to prove a password under a name, as it was typed.
    ///
    /// Errors: `TooManyLogins`.
    pub(super) fn attempt(&self, login: &str, peer: &Peer) -> Result<Attempt<'_>, RpcError> {
        let attempt = self.throttle.login(&login.to_ascii_lowercase(), peer.address);
        Ok(attempt.inspect_err(|refused| audit_throttled("login", peer, refused))?)
    }

    /// Attempts of others do not keep a user away from where they have signed in, by either of their names.
    fn remember_address(&self, user: &User, peer: &Peer) {
        self.throttle.signed_in(&user.username.key(), peer.address);
        if let Some(email) = &user.email {
            self.throttle.signed_in(&email.key(), peer.address);
        }
    }

    /// The user whom a login names, by username or by address. What is neither is nobody's.
    async fn user_of(&self, login: &str) -> Result<Option<Arc<User>>, RpcError> {
        Ok(match (Username::parse(login), Email::parse(login)) {
            (Ok(username), _) => self.store.user_get(&username).await?,
            (Err(_), Ok(email)) => self.store.user_get_by_email(&email).await?,
            (Err(_), Err(_)) => self.store.user_get(&Username::of_nobody()).await?,
        })
    }

    /// The account that a login names, when this is its password, and its user as they were then.
    ///
    /// Errors: `BadCredentials`, which it tells the audit trail; `ServerBusy`.
    async fn prove(
        &self,
        login: &str,
        password: Password,
        peer: &Peer,
        attempt: &mut Attempt<'_>,
        until: Instant,
    ) -> Result<(Arc<Account>, Arc<User>), RpcError> {
        loop {
            // Whoever there is, and whatever is known of them here, the store is asked the same: a read more or less shows
            // in the time of an answer.
            let begun = Instant::now();
            let known = self.user_of(login).await?;
            let username = known.as_ref().map_or_else(Username::of_nobody, |user| user.username.clone());
            let stored = self.store.password_get(&username).await?;
            // What is found takes a little longer to read than what is not.
            let steps = begun.elapsed().as_micros() / LOOKING_UP.as_micros() + 1;
            tokio::time::sleep_until(begun + LOOKING_UP * u32::try_from(steps).unwrap_or(1)).await;
            let (known, stored) = match known {
                Some(user) if user.status == Status::Active => (Some(user), stored),
                _ => (None, None),
            };
            attempt.costs();
            let verdict = self.hashed(until, self.hasher.verify(password.clone(), stored.clone())).await?;
            let Some(known) = known.as_ref().filter(|_| verdict != Verdict::Wrong) else {
                let user = known.as_ref().map_or("", |user| user.username.as_str());
                tracing::info!(target: "audit", event = "login_failed", user, address = %peer.address);
                return Err(RpcError::BadCredentials);
            };
            // Whatever cuts the call off from now on, it is no failed attempt.
            attempt.was_right();
            if let (Verdict::RightButWeak, Some(old)) = (verdict, stored) {
                self.upgrade_hash(known.username.clone(), password.clone(), old);
            }
            // Hashing took a while: when role, status or password changed meanwhile, all of it is judged anew.
            if let Some(account) = self.directory.account_since(&known.username, known.generation).await? {
                let user = account.user();
                if user.generation == known.generation {
                    return Ok((account, user));
                }
            }
        }
    }

    /// Begins a session, and signs the connection in when it is a socket. `user` is the account's as they were when they
    /// proved to be it: the session is of that generation.
    async fn open_session(
        &self,
        peer: &Arc<Peer>,
        account: Arc<Account>,
        user: Arc<User>,
        device: Option<String>,
    ) -> Result<SignedIn, RpcError> {
        let now = self.clock.now();
        let session = Session::begin(&user, device, peer.origin(), now, self.logins.lifetimes);
        let session = self.logins.begin(session).await?.ok_or(RpcError::SessionEnded)?;
        let (begun, tokens) = (session.session.clone(), self.tokens_of(&user, &session.session));
        let identity = Identity { account, session, generation: user.generation, expires_at: tokens.expires_at };
        if peer.mailbox.is_some()
            && let Err(error) = self.bind(peer, identity)
        {
            self.logins.end(begun.id, peer, |_| Ok::<_, StoreError>(())).await?;
            return Err(error);
        }
        let own = Some(begun.id);
        Ok(SignedIn { user: UserView::of_oneself(user), session: self.session_view(begun, own), tokens })
    }

    /// Who an access token speaks for, if it is good now. `origin` is from where it was sent.
    ///
    /// Errors: `TokenExpired`, `TokenInvalid`; `SessionEnded` when its session, or all of the user's, ended since.
    pub async fn identity_of(&self, token: &str, origin: impl FnOnce() -> Origin) -> Result<Identity, RpcError> {
        let Claims { username, session, generation, expires_at, .. } = self.tokens.verify(token)?;
        let account = self.directory.account_since(&username, generation).await?.ok_or(RpcError::SessionEnded)?;
        let session = self.logins.get(session).await?.ok_or(RpcError::SessionEnded)?;
        let user = account.user();
        // A session is good for its own user only. A generation that the store has not heard of was never given out.
        if session.session.user != user.username || generation > user.generation {
            return Err(RpcError::SessionEnded);
        }
        let identity = Identity { account, session, generation, expires_at };
        if !identity.is_current() {
            if !identity.session.is_ended() {
                self.logins.end_met(&identity.session.session, &user);
            }
            return Err(RpcError::SessionEnded);
        }
        self.logins.seen(&identity.session, origin);
        Ok(identity)
    }

    /// Whether an identity that was good is so still: it is the token's time, and it has not been revoked.
    pub fn is_good(&self, identity: &Identity) -> bool {
        self.logins.has_contact() && self.tokens.is_now(identity.expires_at) && identity.is_current()
    }

    /// Signs a socket in under an identity, or extends it.
    ///
    /// Errors: `OtherIdentity` for another user's socket; `SessionEnded` when the identity was revoked or the socket has
    /// closed meanwhile. A socket above the user's bound is closed with 4505.
    pub fn bind(&self, peer: &Arc<Peer>, identity: Identity) -> Result<(), RpcError> {
        let mailbox = peer.mailbox.as_ref().ok_or(RpcError::WebsocketOnly)?;
        match self.presence.bind(peer, identity, self.config.limits.sockets_per_user) {
            Ok(()) => self.still_current(peer),
            Err(Unbound::OtherUser) => Err(RpcError::OtherIdentity),
            Err(Unbound::TooMany) => {
                mailbox.close(4505, "too many connections");
                Err(RpcError::SessionEnded)
            }
            Err(Unbound::Left) => Err(RpcError::SessionEnded),
        }
    }

    /// A revocation that ran between the check of the token and the binding did not see this socket.
    fn still_current(&self, peer: &Arc<Peer>) -> Result<(), RpcError> {
        if peer.identity().is_some_and(|identity| identity.is_current()) {
            return Ok(());
        }
        if let Some(mailbox) = &peer.mailbox {
            mailbox.close(4503, "session_ended");
        }
        Err(RpcError::SessionEnded)
    }
}

/// Counts an attempt that was not let through, and tells the audit trail. What was typed as a name may be a password.
fn audit_throttled(what: &'static str, peer: &Peer, refused: &TooMany) {
    counter!(THROTTLED, "what" => what).increment(1);
    let retry_after_ms = u64::try_from(refused.retry_after.as_millis()).unwrap_or(u64::MAX);
    tracing::info!(target: "audit", event = "throttled", what, address = %peer.address, retry_after_ms);
}

fn checked_device(device: Option<String>) -> Result<Option<String>, RpcError> {
    let device = device.map(|device| text::free_text(&device, DEVICE_MAX_CHARS, false)).transpose();
    device.map_err(|refusal| RpcError::param("device", refusal))
}
