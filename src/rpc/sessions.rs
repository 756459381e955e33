//! `auth.*` of those who have a session: going on with it, looking at it, ending it, and changing the password.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use jsonrpsee::Extensions;
use jsonrpsee::proc_macros::rpc;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

use super::error::RpcError;
use super::params::{Named, Who};
use super::{Context, Handlers, patience, peer_of};
use crate::auth::refresh::{NotOurs, RefreshToken};
use crate::auth::token::AccessToken;
use crate::clock::Time;
use crate::permission::Method;
use crate::sessions::{About, Identity, Proof, Revoked};
use crate::store::{PasswordChange, PasswordHash, StoreError};
use crate::users::rules::{self, Act};
use crate::users::session::Refresh;
use crate::users::{Email, Session, User, Username};

/// How often a refresh is tried when others change the same session meanwhile.
const MAX_ATTEMPTS: usize = 16;
/// How many sessions are ended at once.
const ENDS_AT_ONCE: usize = 16;
/// How often a session is read again that is behind its token, and the pause before. By then every copy has what was written.
const READ_AGAIN: usize = 5;
const BEHIND: Duration = Duration::from_millis(100);

/// Parameters of `auth.refresh`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefreshParams {
    /// The newest refresh token of the session.
    pub refresh_token: SecretString,
}

/// Which of the caller's sessions are meant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The one that this call is made in.
    #[default]
    Current,
    /// All but that.
    Others,
    /// All.
    All,
}

/// Parameters of `auth.logout`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogoutParams {
    /// `current` when absent.
    #[serde(default)]
    pub scope: Option<Scope>,
}

/// Parameters of `auth.change_password`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangePasswordParams {
    /// In the clear; never kept.
    pub current_password: SecretString,
    /// In the clear; never kept.
    pub new_password: SecretString,
    /// Whether the other sessions go on, too. Not, when absent.
    #[serde(default)]
    pub keep_other_sessions: Option<bool>,
}

/// Parameters of `auth.sessions`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionsParams {
    /// A username, or `me`, which it is when absent.
    #[serde(default)]
    pub username: Option<Who>,
}

/// Parameters of `auth.end_session`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndSessionParams {
    /// Its id.
    pub session: Uuid,
}

/// The tokens of a session.
#[derive(Clone, Serialize)]
pub struct TokenSet {
    #[serde(serialize_with = "shown")]
    access_token: SecretString,
    token_type: &'static str,
    /// Seconds.
    expires_in: u64,
    #[serde(serialize_with = "shown")]
    refresh_token: SecretString,
    /// Seconds.
    refresh_expires_in: u64,
    /// When the access token expires.
    #[serde(skip)]
    pub(super) expires_at: Time,
}

/// One session, as its owner and admins see it.
#[derive(Clone, Serialize)]
pub struct SessionView {
    id: Uuid,
    device: Option<String>,
    address: std::net::IpAddr,
    user_agent: Option<String>,
    created_at: Time,
    last_seen_at: Time,
    /// Whether it is the caller's own.
    current: bool,
    /// How many sockets it has, on other gateways as far as known.
    sockets: usize,
}

/// Result of `auth.refresh`.
#[derive(Clone, Serialize)]
pub struct Refreshed {
    tokens: TokenSet,
}

/// Result of `auth.logout` and `auth.end_session`.
#[derive(Clone, Default, Serialize)]
pub struct Ended {
    sessions_ended: usize,
    /// On this gateway; on the others they are closed a moment later.
    sockets_closed: usize,
}

/// Result of `auth.change_password`.
#[derive(Clone, Serialize)]
pub struct PasswordChanged {
    sessions_ended: usize,
    tokens: TokenSet,
}

/// Result of `auth.sessions`.
#[derive(Clone, Serialize)]
pub struct SessionList {
    sessions: Vec<SessionView>,
}

/// The methods of the namespace that are about sessions.
#[rpc(server, namespace = "auth", namespace_separator = ".")]
pub trait Sessions {
    /// `auth.refresh`: new tokens of a session, for its newest refresh token.
    ///
    /// Errors: `TokenExpired`, `TokenInvalid`, `SessionEnded`.
    #[method(name = "refresh", with_extensions)]
    async fn refresh(&self, params: Named<RefreshParams>) -> Result<Refreshed, RpcError>;

    /// `auth.logout`: ends sessions of the caller.
    #[method(name = "logout", with_extensions)]
    async fn logout(&self, params: Named<LogoutParams>) -> Result<Ended, RpcError>;

    /// `auth.change_password`: another password; the caller's session goes on with new tokens.
    ///
    /// Errors: `BadCredentials`, `TooManyLogins`, `WeakPassword`, `ServerBusy`, `SessionEnded`.
    #[method(name = "change_password", with_extensions)]
    async fn change_password(&self, params: Named<ChangePasswordParams>) -> Result<PasswordChanged, RpcError>;

    /// `auth.sessions`: the sessions of a user, oldest first.
    ///
    /// Errors: `NotFound`.
    #[method(name = "sessions", with_extensions)]
    async fn sessions(&self, params: Named<SessionsParams>) -> Result<SessionList, RpcError>;

    /// `auth.end_session`: ends one session; nothing happens to one that has ended.
    #[method(name = "end_session", with_extensions)]
    async fn end_session(&self, params: Named<EndSessionParams>) -> Result<Ended, RpcError>;
}

#[jsonrpsee::core::async_trait]
impl SessionsServer for Handlers {
    async fn refresh(&self, extensions: &Extensions, params: Named<RefreshParams>) -> Result<Refreshed, RpcError> {
        let (peer, params) = (peer_of(extensions)?, params.get()?);
        let token = self.refresh_key.read(&params.refresh_token)?;
        let mut behind = 0;
        for _ in 0..MAX_ATTEMPTS {
            let session = self.store.session_get_to_replace(token.session).await?.ok_or(RpcError::SessionEnded)?;
            let account = self.directory.account_since(&session.user, session.generation).await?;
            let (user, now) = (account.ok_or(RpcError::SessionEnded)?.user(), self.clock.now());
            if !session.is_good(&user, now) || session.generation > user.generation {
                self.logins.end_met(&session, &user);
                let has_expired = !session.ended && now >= session.expires_at;
                return Err(if has_expired { RpcError::TokenExpired } else { RpcError::SessionEnded });
            }
            match session.refresh(token.number, peer.origin(), now, self.logins.lifetimes) {
                Refresh::Again => return Ok(Refreshed { tokens: self.tokens_of(&user, &session) }),
                Refresh::Next(next) => match self.store.session_replace(Session::clone(&next)).await {
                    Ok(()) => return Ok(Refreshed { tokens: self.tokens_of(&user, &next) }),
                    Err(StoreError::RevConflict { .. } | StoreError::NotFound) => {}
                    Err(error) => return Err(error.into()),
                },
                Refresh::Reused => {
                    // Whoever used it, two have had it: neither goes on (RFC 9700 §4.14.2).
                    tracing::warn!(target: "audit", event = "refresh_reused", user = %user.username, session = %session.id, address = %peer.address);
                    self.logins.end(session.id, peer, |_| Ok::<_, StoreError>(())).await?;
                    return Err(RpcError::SessionEnded);
                }
                // The token is ours, so what was read is older. A session is not ended by that.
                Refresh::Ahead if behind < READ_AGAIN => {
                    behind += 1;
                    tokio::time::sleep(BEHIND).await;
                }
                Refresh::Ahead => {
                    tracing::warn!(session = %session.id, "the store has an older state of a session than was given out");
                    return Err(RpcError::StoreUnavailable);
                }
            }
        }
        Err(StoreError::Timeout.into())
    }

    async fn logout(&self, extensions: &Extensions, params: Named<LogoutParams>) -> Result<Ended, RpcError> {
        let (peer, scope) = (peer_of(extensions)?, params.get()?.scope.unwrap_or_default());
        let Identity { account, session: own, .. } = peer.identity().ok_or(RpcError::Unauthenticated)?;
        let own = own.session.id;
        let proof = Proof::new(peer, Method::AuthLogout);
        let mut ended = Ended::default();
        if scope != Scope::Current {
            let open = self.store.sessions_of(&account.user().username).await?;
            let others = open.iter().map(|session| session.id).filter(|&id| id != own);
            self.end_sessions(&proof, others.collect(), &mut ended).await?;
        }
        if scope != Scope::Others {
            // Last: with it goes the right to end the others.
            self.end_sessions(&proof, vec![own], &mut ended).await?;
        }
        Ok(ended)
    }

    async fn change_password(
        &self,
        extensions: &Extensions,
        params: Named<ChangePasswordParams>,
    ) -> Result<PasswordChanged, RpcError> {
        let (peer, params) = (peer_of(extensions)?, params.get()?);
        let identity = peer.identity().ok_or(RpcError::Unauthenticated)?;
        let (user, until) = (identity.account.user(), patience(self, extensions));
        let proven = self.check_own_password(peer, &user, &params.current_password, until).await?;
        let email = user.email.as_ref().map_or("", Email::as_str);
        let hash = self.new_password_hash("new_password", &params.new_password, &user.username, email, until).await?;
        let keeps = params.keep_other_sessions.unwrap_or(false);
        let proof = Proof::new(peer, Method::AuthChangePassword);
        let proof = proof.with_password(proven).sparing(identity.session.session.id);
        // A task of its own: a caller who leaves does not keep the session from following the password.
        let change = tokio::spawn(self.clone().set_own_password(proof, identity, user, hash, keeps));
        change.await.unwrap_or_else(|error| Err(StoreError::OutcomeUnknown(error.to_string()).into()))
    }

    async fn sessions(&self, extensions: &Extensions, params: Named<SessionsParams>) -> Result<SessionList, RpcError> {
        let (peer, params) = (peer_of(extensions)?, params.get()?);
        let caller = peer.caller();
        let username = params.username.unwrap_or(Who::Me).resolve(&caller)?;
        self.allow(&caller, Method::AuthSessions, caller.target(&username))?;
        let user = self.directory.get(&username).await?.ok_or(RpcError::NotFound)?;
        let (own, now) = (peer.identity().map(|identity| identity.session.session.id), self.clock.now());
        let sessions = self.store.sessions_of(&username).await?.into_iter();
        self.allow(&self.caller_now(peer).await?, Method::AuthSessions, caller.target(&username))?;
        let good = sessions.filter(|session| session.is_good(&user, now));
        Ok(SessionList { sessions: good.map(|session| self.session_view(session, own)).collect() })
    }

    async fn end_session(&self, extensions: &Extensions, params: Named<EndSessionParams>) -> Result<Ended, RpcError> {
        let (peer, params) = (peer_of(extensions)?, params.get()?);
        let session = self.store.session_get(params.session).await?;
        // One that nobody has is another's: who may not end those is not told which there are.
        let proof = Proof::new(peer, Method::AuthEndSession);
        // One that nobody has is another's: who may not end those is not told which there are.
        let owner = session.map_or_else(Username::of_nobody, |session| session.user);
        self.directory.judge(&proof, About::Somebody(&owner))?;
        let mut ended = Ended::default();
        self.end_sessions(&proof, vec![params.session], &mut ended).await?;
        Ok(ended)
    }
}

impl Handlers {
    /// Writes the new password, and what follows for the sessions.
    async fn set_own_password(
        self,
        proof: Proof,
        identity: Identity,
        seen: Arc<User>,
        hash: PasswordHash,
        keeps: bool,
    ) -> Result<PasswordChanged, RpcError> {
        let peer = proof.peer.clone();
        let act = Act { actor: Some(seen.username.clone()), at: self.clock.now(), reason: None };
        let next = |user: &User| Ok::<_, RpcError>(Some(rules::change_password(user, keeps, act.clone())));
        let changed = self.directory.change(&proof, &seen.username, None, PasswordChange::Set(hash), next).await?;
        let sessions_ended = changed.sessions_ended;
        let (user, origin, now) = (changed.user, peer.origin(), self.clock.now());
        let moved =
            |session: &Session| Ok(Some(session.move_to(user.generation, origin.clone(), now, self.logins.lifetimes)));
        let session = self.logins.change(identity.session.session.id, moved).await;
        let session = session.map_err(StoreError::after_a_write)?.ok_or(RpcError::SessionEnded)?;
        Ok(PasswordChanged { sessions_ended, tokens: self.tokens_of(&user, &session) })
    }
}

impl Context {
    /// Ends sessions, each while the caller may still do so, and counts them.
    async fn end_sessions(&self, proof: &Proof, ids: Vec<Uuid>, ended: &mut Ended) -> Result<(), RpcError> {
        let end = |id| {
            let (asked, directory) = (proof.clone(), self.directory.clone());
            let may = move |session: &Session| Ok(directory.judge(&asked, About::Somebody(&session.user))?);
            self.logins.end(id, &proof.peer, may)
        };
        let ends: Vec<Result<Revoked, RpcError>> =
            stream::iter(ids).map(end).buffer_unordered(ENDS_AT_ONCE).collect().await;
        let mut failure = None;
        for end in ends {
            match end {
                Ok(Revoked { sessions, sockets }) => {
                    ended.sessions_ended += sessions;
                    ended.sockets_closed += sockets;
                }
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            Some(failure) if ended.sessions_ended > 0 => Err(failure.after_a_write()),
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    /// The tokens of a session as it is now.
    pub(super) fn tokens_of(&self, user: &User, session: &Session) -> TokenSet {
        let AccessToken { text, expires_at } = self.tokens.issue(user, session.id, session.expires_at);
        let now = self.clock.now();
        let seconds = |until: Time| u64::try_from(until.seconds() - now.seconds()).unwrap_or(0);
        let refresh = self.refresh_key.write(RefreshToken { session: session.id, number: session.token });
        TokenSet {
            access_token: text,
            token_type: "Bearer",
            expires_in: seconds(expires_at),
            refresh_token: refresh,
            refresh_expires_in: seconds(session.expires_at),
            expires_at,
        }
    }

    /// A session as its owner sees it, who calls in the session `own`.
    pub(super) fn session_view(&self, session: Session, own: Option<Uuid>) -> SessionView {
        let sockets = self.logins.sockets_of(&session);
        let Session { id, device, address, user_agent, created_at, last_seen_at, .. } = session;
        let current = own == Some(id);
        SessionView { id, device, address, user_agent, created_at, last_seen_at, current, sockets }
    }
}

/// A token, in the one answer that it is for.
fn shown<S: Serializer>(token: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(token.expose_secret())
}

impl From<NotOurs> for RpcError {
    fn from(error: NotOurs) -> Self {
        match error {
            NotOurs::Malformed => Self::TokenInvalid,
            NotOurs::Unknown => Self::SessionEnded,
        }
    }
}
