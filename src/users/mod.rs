//! The users: the entity, its rules, and the language in which they are filtered. No I/O.

pub mod filter;
pub mod fold;
pub mod rules;
pub mod search;
pub mod session;
pub mod user;

pub use session::Session;
pub use user::{Attributes, Change, ChangeKind, Email, Encoded, Role, Status, User, Username};
