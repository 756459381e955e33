//! Doorward: a realtime users gateway.
//!
//! Knowledge runs one way: `server → connection → rpc → {auth, users, sessions, feed} → store`.

pub mod auth;
pub mod clock;
pub mod store;
pub mod users;
