//! The users: the entity, its rules, and the language in which they are filtered. No I/O.

mod attributes;
pub mod filter;
pub mod fold;
pub mod rules;
pub mod search;
pub mod session;
pub mod text;
pub mod user;

pub use attributes::Attributes;
pub use session::Session;
pub use user::{Change, ChangeKind, Email, Encoded, Role, Status, User, Username};
