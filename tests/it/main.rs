//! The integration tests: one binary, one file a subject.
#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps nothing")]

mod audit;
mod auth;
mod bodies;
mod budget;
mod clock;
mod closing;
mod cluster;
mod codes;
mod commands;
mod connection;
mod dribble;
mod durability;
mod elastic;
mod feed;
mod foreign;
mod forged;
mod half_open;
mod limits;
mod log;
mod metrics;
mod oracle;
mod origins;
mod permissions;
mod protocol;
mod rest;
mod revocation;
mod rotation;
mod sessions;
mod start;
mod store;
mod support;
mod throttle;
mod upgrade;
mod users;
