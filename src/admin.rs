//! The admin commands: they work on the store beside a running gateway, which notices within half a second.

use std::io::{BufRead, IsTerminal};
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use crate::auth::hashing::{Hasher, HashingOptions, Pepper};
use crate::auth::password::Policy;
use crate::clock::Clock;
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::directory::audit;
use crate::output;
use crate::server::{StartError, open_store, secret};
use crate::store::{PasswordChange, StoreError, Unique};
use crate::users::rules::{self, Act};
use crate::users::{Email, Role, Status, User, Username};

/// In the audit trail, in the place of a client's address.
const HERE: &str = "command line";

/// Why an admin command did nothing: one line.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The settings, the data folder or the store.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The store refused or failed.
    #[error("{0}")]
    Store(String),
    /// An argument or the password was refused.
    #[error("{what} {why}")]
    Refused {
        /// Which.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// The password could not be read.
    #[error("the password cannot be read: {0}")]
    Prompt(std::io::Error),
}

impl From<StoreError> for AdminError {
    fn from(error: StoreError) -> Self {
        Self::Store(match error {
            StoreError::AlreadyExists(Unique::Username) => "this username is taken".to_owned(),
            StoreError::AlreadyExists(Unique::Email) => "this e-mail address is taken".to_owned(),
            StoreError::NotFound => "there is no such user".to_owned(),
            other => other.to_string(),
        })
    }
}

/// Makes a new admin.
pub async fn create(config: &Config, username: &str, email: &str, from_stdin: bool) -> Result<User, AdminError> {
    let refused = |what| move |refusal: crate::users::user::Refusal| AdminError::Refused { what, why: refusal.message };
    let username = Username::parse(username).map_err(refused("the username"))?;
    username.check_reserved().map_err(refused("the username"))?;
    let email = Email::parse(email).map_err(refused("the e-mail address"))?;

    let data_dir = data_dir(config)?;
    let is_new = data_dir.as_ref().is_some_and(|data_dir| !data_dir.database().exists());
    let (store, home) = open_store(config, data_dir.as_ref()).await?;
    if is_new {
        output::tell(format_args!("these are the first users in {home}"));
    }
    if store.user_get(&username).await?.is_some() {
        return Err(StoreError::AlreadyExists(Unique::Username).into());
    }
    let pepper =
        secret(config.password_pepper.as_ref(), data_dir.as_ref(), "password.pepper").map_err(StartError::from)?;
    let hasher = Hasher::start(HashingOptions {
        threads: std::num::NonZeroUsize::new(1),
        cost: config.bcrypt_cost,
        pepper: Pepper::new(pepper.expose_secret().as_bytes().to_vec()).expect("secrets are long enough: see `config`"),
        queue: 1,
    });
    let hasher = hasher.map_err(StartError::Hashing)?;
    let policy = Policy::load(config.password_min, config.password_list.as_deref());
    let policy = Arc::new(policy.map_err(|error| StartError::PasswordList(error.to_string()))?);

    let password = read_password(from_stdin, true).map_err(AdminError::Prompt)?;
    let hash = hasher.hash_new(&policy, password.expose_secret(), username.as_str(), email.as_str()).await;
    let hash = hash.map_err(|_| AdminError::Store("the password could not be hashed".to_owned()))?;
    let hash = hash.map_err(refused("the password"))?;
    let user = rules::create(username, email, None, Role::Admin, act());
    store.user_create(user.clone(), hash).await?;
    audit(&user, HERE);
    store.close().await;
    Ok(user)
}

/// Makes an existing user an admin.
pub async fn promote(config: &Config, username: &str) -> Result<Arc<User>, AdminError> {
    let refused =
        |refusal: crate::users::user::Refusal| AdminError::Refused { what: "the username", why: refusal.message };
    let username = Username::parse(username).map_err(refused)?;
    let data_dir = data_dir(config)?;
    if let Some(data_dir) = data_dir.as_ref().filter(|data_dir| !data_dir.database().exists()) {
        let folder = data_dir.path().display();
        return Err(AdminError::Store(format!("there are no users in {folder}; see DOORWARD_DATA_DIR")));
    }
    let (store, _) = open_store(config, data_dir.as_ref()).await?;
    loop {
        let user = store.user_get(&username).await?.ok_or(StoreError::NotFound)?;
        if user.status != Status::Active {
            return Err(AdminError::Store(format!("{username} is {}", user.status.as_str())));
        }
        let Some(next) = rules::set_role(&user, Role::Admin, act()) else { return Ok(user) };
        match store.user_replace(next.clone(), PasswordChange::Keep).await {
            Ok(_) => {
                audit(&next, HERE);
                store.close().await;
                return Ok(Arc::new(next));
            }
            Err(StoreError::RevConflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The folder of the embedded store; `None` where a cluster keeps the users.
fn data_dir(config: &Config) -> Result<Option<DataDir>, AdminError> {
    if config.elastic.is_some() {
        return Ok(None);
    }
    DataDir::open(&config.data_dir).map(Some).map_err(|error| StartError::from(error).into())
}

/// The command line acts.
fn act() -> Act {
    Act { actor: None, at: Clock::default().now(), reason: None }
}

/// A password from the first line of the standard input, or from a prompt that does not echo; a new one is asked twice.
pub fn read_password(from_stdin: bool, is_new: bool) -> std::io::Result<SecretString> {
    if from_stdin {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
        return Ok(SecretString::from(line.trim_end_matches(['\r', '\n']).to_owned()));
    }
    if !std::io::stdin().is_terminal() {
        return Err(std::io::Error::other("there is no terminal to ask on; use --password-stdin"));
    }
    let first = rpassword::prompt_password("Password: ")?;
    if !is_new {
        return Ok(SecretString::from(first));
    }
    let again = rpassword::prompt_password("Once more: ")?;
    if first != again {
        return Err(std::io::Error::other("the two were not the same"));
    }
    Ok(SecretString::from(first))
}
