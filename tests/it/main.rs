//! The integration tests: one binary, one file a subject.
#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps nothing")]

mod auth;
mod commands;
mod durability;
mod foreign;
mod limits;
mod log;
mod permissions;
mod protocol;
mod rest;
mod revocation;
mod start;
mod store;
mod support;
mod upgrade;
mod users;
