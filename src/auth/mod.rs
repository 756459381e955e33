//! Who is speaking: passwords, how they are hashed, and the access tokens that stand for a login.
//!
//! Knows neither sockets nor the store: it judges values and gives values back.

pub mod hashing;
pub mod password;
mod pool;
pub mod token;
