//! `auth.*`: making an account, logging in, and signing a socket in.

use std::sync::Arc;

use jsonrpsee::Extensions;
use jsonrpsee::proc_macros::rpc;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::error::{FieldError, RpcError};
use super::params::Named;
use super::{Context, Handlers, UserView, allow, peer_of};
use crate::auth::hashing::{Busy, Verdict};
use crate::auth::password::Password;
use crate::auth::token::AccessToken;
use crate::clock::Time;
use crate::permission::{Method, Target};
use crate::sessions::{Account, Identity, Outbound, Peer, Session, When};
use crate::store::{PasswordHash, StoreError, Unique};
use crate::users::rules::{self, Act};
use crate::users::user::{self, Refusal};
use crate::users::{Email, Role, Status, Username};

/// The longest name that a client may give its device, in characters.
const DEVICE_MAX_CHARS: usize = 64;
/// Refused access tokens on one socket before it is closed.
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
}

/// The tokens of a session.
#[derive(Clone, Serialize)]
pub struct TokenSet {
    access_token: String,
    token_type: &'static str,
    /// Seconds.
    expires_in: u64,
}

/// Result of `auth.register` and `auth.login`.
#[derive(Clone, Serialize)]
pub struct SignedIn {
    user: UserView,
    session: Session,
    tokens: TokenSet,
}

/// Result of `auth.authenticate`.
#[derive(Clone, Serialize)]
pub struct Authenticated {
    user: UserView,
    session: Session,
    expires_at: Time,
}

/// The methods of the namespace.
#[rpc(server, namespace = "auth", namespace_separator = ".")]
pub trait Auth {
    /// `auth.register`: a new account, signed in.
    ///
    /// Errors: `AlreadyExists`, `WeakPassword`, `ServerBusy`; on a socket `OtherIdentity`.
    #[method(name = "register", with_extensions)]
    async fn register(&self, params: Named<RegisterParams>) -> Result<SignedIn, RpcError>;

    /// `auth.login`: a session for the holder of a password; binds a socket.
    ///
    /// Errors: `BadCredentials`, `ServerBusy`; on a socket `OtherIdentity`.
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
        let act = Act { actor: Some(new.username.clone()), at: self.clock.now(), reason: None };
        let account = self.create_user(peer, new, &params.password, Role::User, act).await?;
        self.open_session(peer, account, device)
    }

    async fn login(&self, extensions: &Extensions, params: Named<LoginParams>) -> Result<SignedIn, RpcError> {
        let (peer, params) = (peer_of(extensions)?, params.get()?);
        let device = checked_device(params.device)?;
        // A password beyond the limits can be nobody's; it is refused unread, like any wrong one.
        let password =
            Password::parse(params.password.expose_secret()).map_err(|refusal| RpcError::param("password", refusal))?;
        let account = self.account_of(&params.login).await?;
        let known = account.map(|account| account.user()).filter(|user| user.status == Status::Active);
        let stored = match &known {
            Some(user) => self.store.password_get(&user.username).await?,
            None => None,
        };
        let verdict = self.hashed(self.hasher.verify(password.clone(), stored.clone())).await?;
        let (Some(known), true) = (known, verdict != Verdict::Wrong) else {
            tracing::info!(target: "audit", event = "login_failed", address = %peer.address);
            return Err(RpcError::BadCredentials);
        };
        if let (Verdict::RightButWeak, Some(old)) = (verdict, stored) {
            self.upgrade_hash(&known.username, password, old).await;
        }
        // Hashing took a while: an account or password that was revoked meanwhile does not log in.
        let account = self.directory.account(&known.username).await?.ok_or(RpcError::BadCredentials)?;
        let user = account.user();
        if user.status != Status::Active || user.generation != known.generation {
            return Err(RpcError::BadCredentials);
        }
        tracing::info!(target: "audit", event = "logged_in", user = %user.username, address = %peer.address);
        self.open_session(peer, account, device)
    }

    async fn authenticate(
        &self,
        extensions: &Extensions,
        params: Named<AuthenticateParams>,
    ) -> Result<Authenticated, RpcError> {
        let (peer, params) = (peer_of(extensions)?, params.get()?);
        let identity = match self.identity_of(params.access_token.expose_secret()).await {
            Ok(identity) => identity,
            Err(error) => {
                let bad = matches!(error, RpcError::TokenExpired | RpcError::TokenInvalid | RpcError::SessionEnded);
                if let (true, Some(mailbox)) = (bad && peer.count_refused_token() >= MAX_REFUSED_TOKENS, &peer.mailbox)
                {
                    let (code, reason) = (4500, "invalid token");
                    mailbox.post(Outbound::Close { code, reason, when: When::AfterReplies(None) });
                }
                return Err(error);
            }
        };
        let (session, expires_at) = (identity.session, identity.expires_at);
        let account = self.bind(peer, identity)?;
        let session = session_of(peer, session, None, self.clock.now());
        Ok(Authenticated { user: UserView::of_oneself(account.user()), session, expires_at })
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
        actor: &Arc<Peer>,
        new: NewUser,
        password: &SecretString,
        role: Role,
        act: Act,
    ) -> Result<Arc<Account>, RpcError> {
        // Before the costly hash; the store decides once more when it writes.
        if self.directory.account(&new.username).await?.is_some() {
            return Err(StoreError::AlreadyExists(Unique::Username).into());
        }
        if self.store.user_get_by_email(&new.email).await?.is_some() {
            return Err(StoreError::AlreadyExists(Unique::Email).into());
        }
        let hash = self.new_password_hash("password", password, &new.username, new.email.as_str()).await?;
        if act.actor.as_ref() != Some(&new.username) {
            // Hashing took a while: an admin who makes others may have lost the right meanwhile.
            allow(&actor.caller(), Method::UsersCreate, Target::Nobody)?;
        }
        let user = rules::create(new.username, new.email, new.display_name, role, act);
        Ok(self.directory.create(user, hash, actor).await?)
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
    ) -> Result<PasswordHash, RpcError> {
        let password = password.expose_secret();
        let hash = self.hashed(self.hasher.hash_new(&self.policy, password, username.as_str(), email)).await?;
        hash.map_err(|refusal| RpcError::WeakPassword(FieldError::new(path, refusal)))
    }

    /// Waits for the hashing pool, but not until the call's own deadline: what has only waited is `ServerBusy`.
    pub(super) async fn hashed<T>(&self, work: impl Future<Output = Result<T, Busy>>) -> Result<T, RpcError> {
        let patience = self.config.call_timeout.mul_f64(0.8);
        match tokio::time::timeout(patience, work).await {
            Ok(done) => Ok(done?),
            Err(_) => Err(RpcError::ServerBusy { retry_after: patience }),
        }
    }

    /// Replaces a hash of lower cost, if that can be done now: the login does not depend on it.
    async fn upgrade_hash(&self, username: &Username, password: Password, old: PasswordHash) {
        let Ok(new) = self.hashed(self.hasher.hash(password)).await else { return };
        if let Err(error) = self.store.password_upgrade(username, old, new).await {
            tracing::warn!(%error, "a password hash of lower cost stays");
        }
    }

    /// The account that a login names, by username or by address.
    async fn account_of(&self, login: &str) -> Result<Option<Arc<Account>>, RpcError> {
        if let Ok(username) = Username::parse(login) {
            return Ok(self.directory.account(&username).await?);
        }
        let Ok(email) = Email::parse(login) else { return Ok(None) };
        match self.store.user_get_by_email(&email).await? {
            Some(user) => Ok(self.directory.account(&user.username).await?),
            None => Ok(None),
        }
    }

    /// Begins a session, and signs the connection in when it is a socket.
    fn open_session(
        &self,
        peer: &Arc<Peer>,
        account: Arc<Account>,
        device: Option<String>,
    ) -> Result<SignedIn, RpcError> {
        let user = account.user();
        let session = Uuid::now_v7();
        let AccessToken { text, expires_at } = self.tokens.issue(&user, session);
        if peer.mailbox.is_some() {
            self.bind(peer, Identity { account, session, generation: user.generation, expires_at })?;
        }
        let tokens = TokenSet {
            access_token: text.expose_secret().to_owned(),
            token_type: "Bearer",
            expires_in: self.config.token_life.as_secs(),
        };
        let session = session_of(peer, session, device, self.clock.now());
        Ok(SignedIn { user: UserView::of_oneself(user), session, tokens })
    }

    /// Who an access token speaks for, if it is good now.
    ///
    /// Errors: `TokenExpired`, `TokenInvalid`; `SessionEnded` when the user's tokens were revoked since.
    pub async fn identity_of(&self, token: &str) -> Result<Identity, RpcError> {
        let claims = self.tokens.verify(token)?;
        let account = self.directory.account(&claims.username).await?.ok_or(RpcError::SessionEnded)?;
        let identity =
            Identity { account, session: claims.session, generation: claims.generation, expires_at: claims.expires_at };
        if identity.is_current() { Ok(identity) } else { Err(RpcError::SessionEnded) }
    }

    /// Whether an identity that was good is so still: the token has not expired, nor been revoked.
    pub fn is_good(&self, identity: &Identity) -> bool {
        self.clock.now() < identity.expires_at && identity.is_current()
    }

    /// Signs a socket in under an identity, or extends it.
    ///
    /// Errors: `OtherIdentity` for another user's socket; `SessionEnded` when the identity was revoked
    /// meanwhile. A socket above the user's bound is closed with 4505.
    pub fn bind(&self, peer: &Arc<Peer>, identity: Identity) -> Result<Arc<Account>, RpcError> {
        let mailbox = peer.mailbox.as_ref().ok_or(RpcError::WebsocketOnly)?;
        if let Some(current) = peer.identity() {
            if current.account.user().username != identity.account.user().username {
                return Err(RpcError::OtherIdentity);
            }
            let account = current.account;
            account.update(&identity.account.user());
            peer.identify(Identity { account: account.clone(), ..identity });
            return self.still_current(peer, account);
        }
        let max = self.config.limits.sockets_per_user;
        let Some(account) = self.presence.join(peer, identity, max) else {
            mailbox.close(4505, "too many connections");
            return Err(RpcError::SessionEnded);
        };
        self.still_current(peer, account)
    }

    /// A revocation that ran between the check of the token and the binding did not see this socket.
    fn still_current(&self, peer: &Arc<Peer>, account: Arc<Account>) -> Result<Arc<Account>, RpcError> {
        if peer.identity().is_some_and(|identity| identity.is_current()) {
            return Ok(account);
        }
        if let Some(mailbox) = &peer.mailbox {
            mailbox.close(4503, "session_ended");
        }
        Err(RpcError::SessionEnded)
    }
}

fn session_of(peer: &Peer, id: Uuid, device: Option<String>, now: Time) -> Session {
    Session {
        id,
        device,
        address: peer.address,
        user_agent: peer.user_agent.as_deref().map(str::to_owned),
        created_at: now,
        current: true,
    }
}

fn checked_device(device: Option<String>) -> Result<Option<String>, RpcError> {
    match device {
        Some(device) if device.chars().count() > DEVICE_MAX_CHARS || device.chars().any(char::is_control) => {
            let refusal = Refusal::new("length", "must have at most 64 characters and no control characters");
            Err(RpcError::param("device", refusal))
        }
        device => Ok(device),
    }
}
