//! The integration tests: one binary, one file a subject.
#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps nothing")]

mod commands;
mod durability;
mod start;
mod store;
mod support;
mod users;
