//! `users.*`: reading users and changing them.

use jsonrpsee::Extensions;
use jsonrpsee::proc_macros::rpc;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::auth::NewUser;
use super::error::{FieldError, RpcError};
use super::listing::{self, ListParams, ListResult, SearchParams, SearchResult};
use super::params::{Named, Who, given, nullable};
use super::{Handlers, UserView, patience, peer_of};
use crate::auth::hashing::Verdict;
use crate::auth::password::Password;
use crate::permission::{Field, Method, Target, set_by};
use crate::sessions::{CallerUser, Peer, Proof, ProvenPassword};
use crate::store::PasswordChange;
use crate::users::rules::{self, Act, Patch};
use crate::users::user::{self, Refusal};
use crate::users::{Attributes, Email, Role, Status, User, Username, text};

/// The most names in one `users.get_many`.
const GET_MANY_MAX: usize = 100;
/// The longest reason for a deactivation, in characters.
const REASON_MAX_CHARS: usize = 500;

/// Parameters of methods that name one user.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserParams {
    /// A username, or `me`.
    pub username: Who,
}

/// Parameters of `users.get_many`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetManyParams {
    /// At most 100.
    pub usernames: Vec<Who>,
}

/// Parameters of `users.find_by_email`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FindByEmailParams {
    /// The address, in any case.
    pub email: String,
}

/// Parameters of `users.create`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateParams {
    /// The name to take for good.
    pub username: String,
    /// A private address.
    pub email: String,
    /// In the clear; never kept.
    pub password: SecretString,
    /// The username when absent or null.
    #[serde(default)]
    pub display_name: Option<String>,
    /// `user` when absent.
    #[serde(default)]
    pub role: Option<Role>,
}

/// The members of a patch; absent leaves a field as it is, null clears it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchParams {
    #[serde(default, deserialize_with = "nullable")]
    display_name: Option<Option<String>>,
    #[serde(default, deserialize_with = "nullable")]
    bio: Option<Option<String>>,
    #[serde(default, deserialize_with = "nullable")]
    avatar_url: Option<Option<String>>,
    #[serde(default, deserialize_with = "nullable")]
    attributes: Option<Option<Box<RawValue>>>,
    #[serde(default, deserialize_with = "given")]
    email: Option<String>,
}

/// Parameters of `users.update`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateParams {
    /// A username, or `me`.
    pub username: Who,
    /// What changes.
    pub patch: PatchParams,
    /// Needed by users who change their own address.
    #[serde(default)]
    pub current_password: Option<SecretString>,
    /// Only when the user is at this revision.
    #[serde(default)]
    pub if_rev: Option<u64>,
}

/// Parameters of `users.deactivate` and `users.reactivate`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatusParams {
    /// A username, or `me`.
    pub username: Who,
    /// Why, for the record.
    #[serde(default)]
    pub reason: Option<String>,
    /// Only when the user is at this revision.
    #[serde(default)]
    pub if_rev: Option<u64>,
}

/// Parameters of `users.set_role`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetRoleParams {
    /// A username, or `me`.
    pub username: Who,
    /// The new role.
    pub role: Role,
    /// Only when the user is at this revision.
    #[serde(default)]
    pub if_rev: Option<u64>,
}

/// Parameters of `users.set_password`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetPasswordParams {
    /// A username, or `me`.
    pub username: Who,
    /// In the clear; never kept.
    pub new_password: SecretString,
}

/// A result with one user.
#[derive(Clone, Serialize)]
pub struct UserResult {
    user: UserView,
}

/// Result of `users.get_many`.
#[derive(Clone, Serialize)]
pub struct GetManyResult {
    users: Vec<UserView>,
    missing: Vec<Username>,
}

/// Result of `users.deactivate` and `users.reactivate`.
#[derive(Clone, Serialize)]
pub struct StatusResult {
    user: UserView,
    sessions_ended: usize,
    sockets_closed: usize,
}

/// Result of `users.set_password`.
#[derive(Clone, Serialize)]
pub struct SetPasswordResult {
    sessions_ended: usize,
}

/// The result of methods that have nothing to tell.
#[derive(Clone, Serialize)]
pub struct Done {}

/// The methods of the namespace.
#[rpc(server, namespace = "users", namespace_separator = ".")]
pub trait Users {
    /// `users.get`: one user, as much of them as the caller may see.
    ///
    /// Errors: `NotFound`.
    #[method(name = "get", with_extensions)]
    async fn get(&self, params: Named<UserParams>) -> Result<UserResult, RpcError>;

    /// `users.get_many`: several users, and the names that nobody has.
    #[method(name = "get_many", with_extensions)]
    async fn get_many(&self, params: Named<GetManyParams>) -> Result<GetManyResult, RpcError>;

    /// `users.find_by_email`: who holds an address.
    ///
    /// Errors: `NotFound`.
    #[method(name = "find_by_email", with_extensions)]
    async fn find_by_email(&self, params: Named<FindByEmailParams>) -> Result<UserResult, RpcError>;

    /// `users.list`: users in order, page by page.
    ///
    /// Errors: `CursorInvalid`, `FilterRefused`.
    #[method(name = "list", with_extensions)]
    async fn list(&self, params: Named<ListParams>) -> Result<ListResult, RpcError>;

    /// `users.search`: users by words of their names, best first.
    ///
    /// Errors: `CursorInvalid`, `FilterRefused`.
    #[method(name = "search", with_extensions)]
    async fn search(&self, params: Named<SearchParams>) -> Result<SearchResult, RpcError>;

    /// `users.create`: an account made by an admin.
    ///
    /// Errors: `AlreadyExists`, `WeakPassword`, `ServerBusy`.
    #[method(name = "create", with_extensions)]
    async fn create(&self, params: Named<CreateParams>) -> Result<UserResult, RpcError>;

    /// `users.update`: profile and address.
    ///
    /// Errors: `NotFound`, `AlreadyExists`, `RevConflict`, `BadCredentials`, `TooManyLogins`, `ServerBusy`.
    #[method(name = "update", with_extensions)]
    async fn update(&self, params: Named<UpdateParams>) -> Result<UserResult, RpcError>;

    /// `users.deactivate`: closes an account and its sockets.
    ///
    /// Errors: `NotFound`, `LastAdmin`, `RevConflict`.
    #[method(name = "deactivate", with_extensions)]
    async fn deactivate(&self, params: Named<StatusParams>) -> Result<StatusResult, RpcError>;

    /// `users.reactivate`: opens it again.
    ///
    /// Errors: `NotFound`, `RevConflict`.
    #[method(name = "reactivate", with_extensions)]
    async fn reactivate(&self, params: Named<StatusParams>) -> Result<StatusResult, RpcError>;

    /// `users.set_role`: makes a user an admin or a plain user; their tokens die.
    ///
    /// Errors: `NotFound`, `LastAdmin`, `RevConflict`.
    #[method(name = "set_role", with_extensions)]
    async fn set_role(&self, params: Named<SetRoleParams>) -> Result<UserResult, RpcError>;

    /// `users.set_password`: another password; the user's tokens die.
    ///
    /// Errors: `NotFound`, `WeakPassword`, `ServerBusy`.
    #[method(name = "set_password", with_extensions)]
    async fn set_password(&self, params: Named<SetPasswordParams>) -> Result<SetPasswordResult, RpcError>;

    /// `users.erase`: blanks personal data for good; the name stays taken.
    ///
    /// Errors: `NotFound`, `LastAdmin`.
    #[method(name = "erase", with_extensions)]
    async fn erase(&self, params: Named<UserParams>) -> Result<Done, RpcError>;
}

#[jsonrpsee::core::async_trait]
impl UsersServer for Handlers {
    async fn get(&self, extensions: &Extensions, params: Named<UserParams>) -> Result<UserResult, RpcError> {
        let peer = peer_of(extensions)?;
        let caller = peer.caller();
        let username = match params.get()?.username {
            // The session holds the caller's user, kept current: no look-up.
            Who::Me if self.feed.has_contact() => {
                let user = caller.user.clone().ok_or(RpcError::Unauthenticated)?;
                return Ok(UserResult { user: UserView::new(user, &caller) });
            }
            who => who.resolve(&caller)?,
        };
        let user = self.directory.get(&username).await?.ok_or(RpcError::NotFound)?;
        Ok(UserResult { user: UserView::new(user, &self.caller_now(peer).await?) })
    }

    async fn get_many(&self, extensions: &Extensions, params: Named<GetManyParams>) -> Result<GetManyResult, RpcError> {
        let (peer, params) = (peer_of(extensions)?, params.get()?);
        let caller = peer.caller();
        if params.usernames.len() > GET_MANY_MAX {
            return Err(RpcError::param("usernames", Refusal::new("length", "must hold at most 100 names")));
        }
        let mut wanted: Vec<Username> = Vec::new();
        for who in params.usernames {
            let username = who.resolve(&caller)?;
            if !wanted.contains(&username) {
                wanted.push(username);
            }
        }
        let found = self.store.user_get_many(&wanted).await?;
        let caller = self.caller_now(peer).await?;
        let (mut users, mut missing) = (Vec::new(), Vec::new());
        for username in wanted {
            match found.iter().find(|user| user.username == username) {
                Some(user) => users.push(UserView::new(user.clone(), &caller)),
                None => missing.push(username),
            }
        }
        Ok(GetManyResult { users, missing })
    }

    async fn find_by_email(
        &self,
        extensions: &Extensions,
        params: Named<FindByEmailParams>,
    ) -> Result<UserResult, RpcError> {
        let (peer, params) = (peer_of(extensions)?, params.get()?);
        let email = Email::parse(&params.email).map_err(|refusal| RpcError::param("email", refusal))?;
        let user = self.store.user_get_by_email(&email).await?;
        let caller = self.caller_now(peer).await?;
        Ok(UserResult { user: UserView::new(user.ok_or(RpcError::NotFound)?, &caller) })
    }

    async fn list(&self, extensions: &Extensions, params: Named<ListParams>) -> Result<ListResult, RpcError> {
        listing::list(self, peer_of(extensions)?, params.get()?).await
    }

    async fn search(&self, extensions: &Extensions, params: Named<SearchParams>) -> Result<SearchResult, RpcError> {
        listing::search(self, peer_of(extensions)?, params.get()?).await
    }

    async fn create(&self, extensions: &Extensions, params: Named<CreateParams>) -> Result<UserResult, RpcError> {
        let (peer, params) = (peer_of(extensions)?, params.get()?);
        let caller = peer.caller();
        let new = NewUser::check(&params.username, &params.email, params.display_name.as_deref())?;
        let role = params.role.unwrap_or(Role::User);
        let (proof, until) = (Proof::new(peer, Method::UsersCreate), patience(self, extensions));
        let act = self.act(&caller, None);
        let account = self.create_user(&proof, new, &params.password, role, act, until).await?;
        Ok(UserResult { user: UserView::new(account.user(), &caller) })
    }

    async fn update(&self, extensions: &Extensions, params: Named<UpdateParams>) -> Result<UserResult, RpcError> {
        let (peer, params) = (peer_of(extensions)?, params.get()?);
        let caller = peer.caller();
        let username = params.username.resolve(&caller)?;
        let target = caller.target(&username);
        self.allow(&caller, Method::UsersUpdate, target)?;
        let patch = params.patch.check()?;
        let mut proof = Proof::new(peer, Method::UsersUpdate);
        if patch.email.is_some() && target == Target::Oneself {
            let needed = || Refusal::new("required", "is needed to change your own address");
            let given = params.current_password.as_ref();
            let given = given.ok_or_else(|| RpcError::param("current_password", needed()))?;
            let user = caller.user.as_ref().ok_or(RpcError::Unauthenticated)?;
            proof = proof.with_password(self.check_own_password(peer, user, given, patience(self, extensions)).await?);
        }
        let act = self.act(&caller, None);
        let next = |user: &User| Ok::<_, RpcError>(rules::update(present(user)?, &patch, act.clone()));
        let changed = self.directory.change(&proof, &username, params.if_rev, PasswordChange::Keep, next).await?;
        Ok(UserResult { user: UserView::new(changed.user, &caller) })
    }

    async fn deactivate(&self, extensions: &Extensions, params: Named<StatusParams>) -> Result<StatusResult, RpcError> {
        self.set_status(extensions, Method::UsersDeactivate, params, rules::deactivate).await
    }

    async fn reactivate(&self, extensions: &Extensions, params: Named<StatusParams>) -> Result<StatusResult, RpcError> {
        self.set_status(extensions, Method::UsersReactivate, params, rules::reactivate).await
    }

    async fn set_role(&self, extensions: &Extensions, params: Named<SetRoleParams>) -> Result<UserResult, RpcError> {
        let (peer, params) = (peer_of(extensions)?, params.get()?);
        let caller = peer.caller();
        let username = params.username.resolve(&caller)?;
        self.allow(&caller, Method::UsersSetRole, caller.target(&username))?;
        let act = self.act(&caller, None);
        let next = |user: &User| Ok::<_, RpcError>(rules::set_role(present(user)?, params.role, act.clone()));
        let proof = Proof::new(peer, Method::UsersSetRole);
        let changed = self.directory.change(&proof, &username, params.if_rev, PasswordChange::Keep, next).await?;
        Ok(UserResult { user: UserView::new(changed.user, &caller) })
    }

    async fn set_password(
        &self,
        extensions: &Extensions,
        params: Named<SetPasswordParams>,
    ) -> Result<SetPasswordResult, RpcError> {
        let (peer, params) = (peer_of(extensions)?, params.get()?);
        let caller = peer.caller();
        let username = params.username.resolve(&caller)?;
        self.allow(&caller, Method::UsersSetPassword, caller.target(&username))?;
        let user = self.directory.get(&username).await?.ok_or(RpcError::NotFound)?;
        let email = present(&user)?.email.as_ref().map_or("", Email::as_str);
        let until = patience(self, extensions);
        let hash = self.new_password_hash("new_password", &params.new_password, &username, email, until).await?;
        let act = self.act(&caller, None);
        let next = |user: &User| Ok::<_, RpcError>(Some(rules::set_password(present(user)?, act.clone())));
        let proof = Proof::new(peer, Method::UsersSetPassword);
        let changed = self.directory.change(&proof, &username, None, PasswordChange::Set(hash), next).await?;
        Ok(SetPasswordResult { sessions_ended: changed.sessions_ended })
    }

    async fn erase(&self, extensions: &Extensions, params: Named<UserParams>) -> Result<Done, RpcError> {
        let (peer, params) = (peer_of(extensions)?, params.get()?);
        let caller = peer.caller();
        let username = params.username.resolve(&caller)?;
        self.allow(&caller, Method::UsersErase, caller.target(&username))?;
        let act = self.act(&caller, None);
        // Of an erased user, too: what was left half done is done again.
        let next = |user: &User| Ok::<_, RpcError>(rules::erase(user, act.clone()));
        let proof = Proof::new(peer, Method::UsersErase);
        self.directory.change(&proof, &username, None, PasswordChange::Remove, next).await?;
        Ok(Done {})
    }
}

impl Handlers {
    /// Who acts now, and why.
    fn act(&self, caller: &CallerUser, reason: Option<String>) -> Act {
        Act { actor: caller.user.as_ref().map(|user| user.username.clone()), at: self.clock.now(), reason }
    }

    async fn set_status(
        &self,
        extensions: &Extensions,
        method: Method,
        params: Named<StatusParams>,
        rule: fn(&User, Act) -> Option<User>,
    ) -> Result<StatusResult, RpcError> {
        let (peer, params) = (peer_of(extensions)?, params.get()?);
        let caller = peer.caller();
        let username = params.username.resolve(&caller)?;
        self.allow(&caller, method, caller.target(&username))?;
        let act = self.act(&caller, checked_reason(params.reason)?);
        let next = |user: &User| Ok::<_, RpcError>(rule(present(user)?, act.clone()));
        let proof = Proof::new(peer, method);
        let changed = self.directory.change(&proof, &username, params.if_rev, PasswordChange::Keep, next).await?;
        let (user, sessions_ended) = (UserView::new(changed.user, &caller), changed.sessions_ended);
        Ok(StatusResult { user, sessions_ended, sockets_closed: changed.revoked.sockets })
    }

    /// The caller, who is `user`, proves once more who they are, with the parameter `current_password`.
    pub(super) async fn check_own_password(
        &self,
        peer: &Peer,
        user: &User,
        password: &SecretString,
        until: Instant,
    ) -> Result<ProvenPassword, RpcError> {
        let username = &user.username;
        let parsed = Password::parse(password.expose_secret());
        let password = parsed.map_err(|refusal| RpcError::param("current_password", refusal))?;
        let mut attempt = self.attempt(username.as_str(), peer)?;
        let stored = self.store.password_get(username).await?;
        attempt.costs();
        match self.hashed(until, self.hasher.verify(password, stored.clone())).await {
            Err(error) => {
                attempt.void();
                Err(error)
            }
            Ok(verdict) => match stored.filter(|_| verdict != Verdict::Wrong) {
                Some(hash) => {
                    attempt.succeeded();
                    Ok(ProvenPassword { rev: user.rev, hash })
                }
                None => {
                    attempt.failed();
                    tracing::info!(target: "audit", event = "proof_failed", user = %username, address = %peer.address);
                    Err(RpcError::BadCredentials)
                }
            },
        }
    }
}

impl PatchParams {
    /// Checks every member and tells all refusals at once.
    fn check(self) -> Result<Patch, RpcError> {
        let mut refused = Vec::new();
        let display_name = |text: String| user::display_name(&text);
        let bio = |text: String| user::bio(&text);
        let avatar_url = |text: String| user::avatar_url(&text);
        let attributes = |json: Box<RawValue>| Attributes::parse(&json);
        let email = |text: String| Email::parse(&text);
        let patch = Patch {
            display_name: checked(Field::DisplayName, self.display_name, display_name, &mut refused),
            bio: checked(Field::Bio, self.bio, bio, &mut refused).map(Option::unwrap_or_default),
            avatar_url: checked(Field::AvatarUrl, self.avatar_url, avatar_url, &mut refused),
            attributes: checked(Field::Attributes, self.attributes, attributes, &mut refused)
                .map(Option::unwrap_or_default),
            email: checked(Field::Email, self.email.map(Some), email, &mut refused).flatten(),
        };
        if refused.is_empty() { Ok(patch) } else { Err(RpcError::InvalidParams(refused)) }
    }
}

/// Applies a check to what a patch gives for one field that the table lets it set; null needs none.
fn checked<A, T>(
    field: Field,
    given: Option<Option<A>>,
    check: impl FnOnce(A) -> Result<T, Refusal>,
    refused: &mut Vec<FieldError>,
) -> Option<Option<T>> {
    let given = given?;
    let refusal = match given.map(check).transpose() {
        Ok(value) if set_by(field) == Some(Method::UsersUpdate) => return Some(value),
        Ok(_) => Refusal::new("unknown_member", "is not set by users.update"),
        Err(refusal) => refusal,
    };
    refused.push(FieldError::new(format!("patch.{}", field.name()), refusal));
    None
}

fn checked_reason(reason: Option<String>) -> Result<Option<String>, RpcError> {
    let reason = reason.map(|reason| text::free_text(&reason, REASON_MAX_CHARS, true)).transpose();
    reason.map_err(|refusal| RpcError::param("reason", refusal))
}

/// The user, unless erased: nobody changes those any more.
fn present(user: &User) -> Result<&User, RpcError> {
    if user.status == Status::Erased { Err(RpcError::NotFound) } else { Ok(user) }
}
