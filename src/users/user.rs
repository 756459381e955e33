//! The user entity and the checked types of its fields.
//!
//! A value of these types has passed its checks: a bad name or address never reaches the
//! rules or the store. What a caller may see or change of a user is decided in `permission`.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::{Attributes, text};
use crate::clock::Time;

/// The longest display name, in code points.
pub const DISPLAY_NAME_MAX_CHARS: usize = 64;
/// The longest bio, in code points.
pub const BIO_MAX_CHARS: usize = 500;
/// The longest e-mail address, in bytes (RFC 5321 §4.5.3.1.3 less its brackets).
pub const EMAIL_MAX_BYTES: usize = 254;
/// The longest avatar URL, in bytes.
pub const AVATAR_URL_MAX_BYTES: usize = 2048;

/// Names that would shadow a word of the routes or suggest an authority; compared in lower case.
const RESERVED_NAMES: [&str; 16] = [
    "me",
    "admin",
    "administrator",
    "auth",
    "console",
    "doorward",
    "healthz",
    "login",
    "logout",
    "metrics",
    "readyz",
    "register",
    "root",
    "rpc",
    "system",
    "users",
];

/// Why a value was not accepted: a stable word for programs and a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The rule that was broken, e.g. `length` or `reserved`.
    pub rule: &'static str,
    /// What the caller can change.
    pub message: String,
    /// Where inside of the value, e.g. `.a[1]`; empty for the value itself.
    pub within: String,
}

impl Refusal {
    /// A refusal under `rule`, saying `message`.
    pub fn new(rule: &'static str, message: impl Into<String>) -> Self {
        Self { rule, message: message.into(), within: String::new() }
    }

    /// The refusal of what holds the refused value at `place`.
    pub fn inside(self, place: &str) -> Self {
        Self { within: format!("{place}{}", self.within), ..self }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

/// A user's identity: 3–32 of `A–Z a–z 0–9 . _ -`, the first a letter or digit.
///
/// Kept as registered, compared ignoring case. Immutable and never given twice.
#[derive(Debug, Clone)]
pub struct Username(Arc<str>);

impl Username {
    /// Checks the shape of a name. Whether a new user may take it is [`Username::check_reserved`]'s question.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if !(3..=32).contains(&text.len()) {
            return Err(Refusal::new("length", "must have 3 to 32 characters"));
        }
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if !text.bytes().all(legal) {
            return Err(Refusal::new("characters", "may only contain A-Z a-z 0-9 . _ -"));
        }
        if !text.as_bytes()[0].is_ascii_alphanumeric() {
            return Err(Refusal::new("first_character", "must begin with a letter or digit"));
        }
        Ok(Self(text.into()))
    }

    /// Refuses the names that no user may take.
    pub fn check_reserved(&self) -> Result<(), Refusal> {
        if RESERVED_NAMES.contains(&self.key().as_str()) {
            return Err(Refusal::new("reserved", "is a reserved name; choose another"));
        }
        Ok(())
    }

    /// A reserved name: stands for nobody where asking for nobody must cost as much as asking for somebody.
    pub fn of_nobody() -> Self {
        Self(RESERVED_NAMES[0].into())
    }

    /// The name as it was registered.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name in lower case: equal for all spellings of one name. Stores use it as the key.
    pub fn key(&self) -> String {
        self.0.to_ascii_lowercase()
    }
}

impl PartialEq for Username {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for Username {}

impl Hash for Username {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for byte in self.0.bytes() {
            state.write_u8(byte.to_ascii_lowercase());
        }
    }
}

impl std::fmt::Display for Username {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Username {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Username {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// An e-mail address: ASCII, at most 254 bytes, one `@`. Kept as given, compared ignoring case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Email(String);

impl Email {
    /// Checks an address. International domains are written in their `xn--` form, so that two
    /// spellings of one address cannot become two accounts.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let refuse = |message| Err(Refusal::new("email", message));
        if text.len() > EMAIL_MAX_BYTES {
            return Err(Refusal::new("length", "must have at most 254 characters"));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return refuse("must be ASCII without spaces; write an international domain in its xn-- form");
        }
        let Some((local, domain)) = text.split_once('@') else {
            return refuse("must contain an @");
        };
        if local.is_empty() || local.len() > 64 || local.bytes().any(|byte| b"()<>[]:;@\\,\"".contains(&byte)) {
            return refuse("must have 1 to 64 plain characters before the @");
        }
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if !domain.split('.').all(label) {
            return refuse("must have a domain name after the @");
        }
        Ok(Self(text.to_owned()))
    }

    /// The address as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The address in lower case: equal for all spellings of one address.
    pub fn key(&self) -> String {
        self.0.to_ascii_lowercase()
    }
}

impl<'de> Deserialize<'de> for Email {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Checks a display name and brings it to NFC.
pub fn display_name(text: &str) -> Result<String, Refusal> {
    let name = text::name(text, DISPLAY_NAME_MAX_CHARS)?;
    if name.is_empty() {
        return Err(Refusal::new("length", "must not be empty; null restores the username"));
    }
    Ok(name)
}

/// Checks a bio and brings it to NFC. Line feeds are allowed.
pub fn bio(text: &str) -> Result<String, Refusal> {
    text::free_text(text, BIO_MAX_CHARS, true)
}

/// Checks an avatar URL: absolute, `http` or `https`.
pub fn avatar_url(text: &str) -> Result<String, Refusal> {
    if text.len() > AVATAR_URL_MAX_BYTES {
        return Err(Refusal::new("length", "must have at most 2048 characters"));
    }
    let uri = text.parse::<hyper::Uri>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_graphic()));
    let web = uri.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some());
    if !web {
        return Err(Refusal::new("url", "must be an absolute http or https URL"));
    }
    Ok(text.to_owned())
}

/// Whether an account can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It can log in.
    Active,
    /// It cannot log in, until an admin reactivates it.
    Deactivated,
    /// Its personal data are gone for good; only the name stays taken.
    Erased,
}

impl Status {
    /// The word on the wire and in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Deactivated => "deactivated",
            Self::Erased => "erased",
        }
    }

    /// The status of a word, or `None`.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Active, Self::Deactivated, Self::Erased].into_iter().find(|status| status.as_str() == text)
    }
}

/// What an account may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Itself.
    User,
    /// Everyone.
    Admin,
}

impl Role {
    /// The word on the wire and in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Admin => "admin",
        }
    }

    /// The role of a word, or `None`.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::User, Self::Admin].into_iter().find(|role| role.as_str() == text)
    }
}

/// What a change did, as the feed tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// The user came to be.
    Created,
    /// Fields of the profile, the address or the password changed.
    Updated,
    /// The account was deactivated.
    Deactivated,
    /// The account can be used again.
    Reactivated,
    /// The role changed.
    RoleChanged,
    /// The personal data were blanked for good.
    Erased,
}

impl ChangeKind {
    /// The word on the wire and in the audit trail.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Deactivated => "deactivated",
            Self::Reactivated => "reactivated",
            Self::RoleChanged => "role_changed",
            Self::Erased => "erased",
        }
    }
}

/// The last change of a user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// What it did.
    pub kind: ChangeKind,
    /// The names of the fields it changed, as on the wire.
    pub fields: Vec<String>,
    /// Who made it; `None` when it came from the command line.
    pub actor: Option<Username>,
    /// When.
    pub at: Time,
    /// Why, in the actor's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A user's state as JSON, written at most once for each form in which it is shown.
///
/// Belongs to one state: a clone, from which the next state is made, begins empty. Two are always equal.
#[derive(Debug, Default)]
pub struct Encoded {
    /// With the fields that the user themself and admins see.
    pub full: OnceLock<Box<RawValue>>,
    /// With the fields that every signed-in user sees.
    pub public: OnceLock<Box<RawValue>>,
}

impl Clone for Encoded {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Encoded {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// About what a form has beside its texts: names, times and marks.
const JSON_BYTES: usize = 400;

/// One user, whole.
#[derive(Debug, Clone, PartialEq)]
pub struct User {
    /// Its identity.
    pub username: Username,
    /// Private; `None` once erased.
    pub email: Option<Email>,
    /// NFC; the username unless the user chose another.
    pub display_name: String,
    /// NFC; may be empty.
    pub bio: String,
    /// An absolute http(s) URL.
    pub avatar_url: Option<String>,
    /// App-defined.
    pub attributes: Attributes,
    /// Whether the account can be used.
    pub status: Status,
    /// What the account may do.
    pub role: Role,
    /// When it was created.
    pub created_at: Time,
    /// When it last changed.
    pub updated_at: Time,
    /// 1 at creation, one more with every change.
    pub rev: u64,
    /// The change that led to this state.
    pub last_change: Change,
    /// The generation of its tokens: tokens of an earlier one are no longer good. Never leaves the gateway
    /// except inside a token.
    pub generation: u64,
    /// This state as JSON; see `view::UserView`.
    pub encoded: Encoded,
}

impl User {
    /// About how many bytes this state takes in memory, once both its forms are there as JSON.
    pub fn bytes(&self) -> usize {
        let texts = [
            Some(self.username.as_str()),
            self.email.as_ref().map(Email::as_str),
            Some(&self.display_name),
            Some(&self.bio),
            self.avatar_url.as_deref(),
            Some(self.attributes.json()),
            self.last_change.reason.as_deref(),
        ];
        size_of::<Self>() + 3 * (JSON_BYTES + texts.into_iter().flatten().map(str::len).sum::<usize>())
    }

    /// Whether this is an admin who can act: what the last-admin rule counts.
    pub fn is_active_admin(&self) -> bool {
        self.role == Role::Admin && self.status == Status::Active
    }
}
