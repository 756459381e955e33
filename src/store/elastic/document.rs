//! Users as documents.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::documents::{Document, Found, Ops};
use crate::clock::Time;
use crate::store::{Before, PasswordChange, PasswordHash, StoreError};
use crate::users::fold::fold;
use crate::users::search::terms_of;
use crate::users::{Email, Role, Status, User, Username};

/// The fields of a document that a user is made of: what lists and searches ask for.
pub(super) const FIELDS: [&str; 13] = [
    "username",
    "email",
    "display_name",
    "bio",
    "avatar_url",
    "attributes",
    "status",
    "role",
    "created_at",
    "updated_at",
    "rev",
    "last_change",
    "generation",
];

/// One user. Texts ending in `_key` or `_fold` are compared and sorted by; times are milliseconds since 1970.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct UserDocument {
    #[serde(flatten)]
    pub(super) fields: UserFields,
    username_key: String,
    email_key: Option<String>,
    display_fold: String,
    terms: String,
    pub(super) password: Option<String>,
    pub(super) ops: Ops,
    /// The number of the state it replaced, in the same index; `None` for a new user and after a copy.
    pub(super) prev_seq: Option<u64>,
    /// JSON of [`Before`].
    pub(super) before: Option<String>,
    /// Its places in the indices that this one was copied from, until its next change.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) former: BTreeMap<String, FormerPlace>,
}

/// The [`FIELDS`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct UserFields {
    pub(super) username: String,
    email: Option<String>,
    display_name: String,
    bio: String,
    avatar_url: Option<String>,
    attributes: String,
    status: Status,
    role: Role,
    created_at: i64,
    updated_at: i64,
    pub(super) rev: u64,
    last_change: String,
    generation: u64,
}

/// The place of a document in an index that it was copied from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct FormerPlace {
    pub(super) shard: usize,
    pub(super) number: u64,
    /// The number of the state that this state replaced.
    pub(super) prev: Option<u64>,
}

impl Document for UserDocument {
    const IS_DELETED: bool = false;

    fn ops(&self) -> &Ops {
        &self.ops
    }
}

impl UserDocument {
    /// A new user.
    pub(super) fn create(user: &User, password: &PasswordHash) -> Self {
        Self::new(user, Some(password.expose().to_owned()), Ops::default().next())
    }

    /// The state after `found`, which is `old`.
    pub(super) fn replace(found: &Found<Self>, old: &User, user: &User, password: &PasswordChange) -> Self {
        let password = match password {
            PasswordChange::Keep => found.document.password.clone(),
            PasswordChange::Set(hash) => Some(hash.expose().to_owned()),
            PasswordChange::Remove => None,
        };
        let mut next = Self::new(user, password, found.document.ops.next());
        next.prev_seq = Some(found.place.number());
        // Of an erased user nothing may remain.
        next.before = (user.status != Status::Erased).then(|| to_json(&Before::of(old)));
        next
    }

    /// The same state once more: what changes is its number, so that no write that knows the old one takes effect.
    pub(super) fn again(found: &Found<Self>) -> Result<Self, StoreError> {
        let document = &found.document;
        let user = User::try_from(&document.fields)?;
        let before = (user.status != Status::Erased).then(|| to_json(&Before::of(&user)));
        Ok(Self { ops: document.ops.next(), prev_seq: Some(found.place.number()), before, ..document.clone() })
    }

    fn new(user: &User, password: Option<String>, ops: Ops) -> Self {
        let fields = UserFields {
            username: user.username.as_str().to_owned(),
            email: user.email.as_ref().map(|email| email.as_str().to_owned()),
            display_name: user.display_name.clone(),
            bio: user.bio.clone(),
            avatar_url: user.avatar_url.clone(),
            attributes: to_json(&user.attributes),
            status: user.status,
            role: user.role,
            created_at: user.created_at.ms(),
            updated_at: user.updated_at.ms(),
            rev: user.rev,
            last_change: to_json(&user.last_change),
            generation: user.generation,
        };
        Self {
            fields,
            username_key: user.username.key(),
            email_key: user.email.as_ref().map(Email::key),
            display_fold: fold(&user.display_name),
            terms: terms_of(user).join(" "),
            password,
            ops,
            prev_seq: None,
            before: None,
            former: BTreeMap::new(),
        }
    }

    /// Folds the texts of a document anew that an earlier program may have written.
    pub(super) fn refold(source: &mut Value) -> Result<(), StoreError> {
        let fields = UserFields::deserialize(&*source).map_err(|_| damaged("fields"))?;
        let user = User::try_from(&fields)?;
        if let Some(members) = source.as_object_mut() {
            members.remove("words"); // of schema 1
        }
        source["display_fold"] = fold(&user.display_name).into();
        source["terms"] = terms_of(&user).join(" ").into();
        Ok(())
    }

    /// Whether this is the user's address, in any spelling.
    pub(super) fn has_email(&self, email: &Email) -> bool {
        self.email_key.as_deref() == Some(email.key().as_str())
    }
}

/// What a state replaced, from its `before`.
pub(super) fn before(json: Option<&str>) -> Result<Option<Before>, StoreError> {
    json.map(|json| from_json("before", json)).transpose()
}

impl TryFrom<&UserFields> for User {
    type Error = StoreError;

    fn try_from(fields: &UserFields) -> Result<Self, StoreError> {
        Ok(Self {
            username: Username::parse(&fields.username).map_err(|_| damaged("username"))?,
            email: fields.email.as_deref().map(Email::parse).transpose().map_err(|_| damaged("email"))?,
            display_name: fields.display_name.clone(),
            bio: fields.bio.clone(),
            avatar_url: fields.avatar_url.clone(),
            attributes: from_json("attributes", &fields.attributes)?,
            status: fields.status,
            role: fields.role,
            created_at: Time::from_ms(fields.created_at),
            updated_at: Time::from_ms(fields.updated_at),
            rev: fields.rev,
            last_change: from_json("last_change", &fields.last_change)?,
            generation: fields.generation,
            encoded: crate::users::Encoded::default(),
        })
    }
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("these types have only string keys")
}

fn from_json<T: DeserializeOwned>(field: &'static str, json: &str) -> Result<T, StoreError> {
    serde_json::from_str(json).map_err(|_| damaged(field))
}

fn damaged(field: &'static str) -> StoreError {
    StoreError::Unexpected(format!("a document of a user is damaged: {field}"))
}
