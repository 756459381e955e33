//! Doorward: a realtime users gateway.
//!
//! Apps hold one WebSocket each, scripts post JSON-RPC over HTTP, admin consoles watch users change. The
//! crate is the gateway itself; `main.rs` is its command line. `ARCHITECTURE.md` is the map.
//!
//! Knowledge runs one way: `server → connection → rpc → {directory, logins} → {auth, users, sessions, feed} → store`. The store has
//! never heard of JSON-RPC, a handler never of sockets.
#![deny(clippy::print_stderr, reason = "it panics where standard error cannot be written: see `output`")]

pub mod admin;
pub mod auth;
pub mod authority;
pub mod clock;
pub mod config;
pub mod connection;
pub mod data_dir;
pub mod directory;
pub mod feed;
#[doc(hidden)]
pub mod fuzzing;
pub mod health;
pub mod log;
pub mod logins;
pub mod metrics;
pub mod output;
pub mod permission;
pub mod rpc;
pub mod secret_file;
pub mod server;
pub mod sessions;
pub mod signals;
pub mod store;
pub mod users;
pub mod view;
pub mod watch;
