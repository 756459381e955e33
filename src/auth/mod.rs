//! Who is speaking: passwords, how they are hashed, who may try how often, and the tokens that stand for a login.
//!
//! Knows neither sockets nor the store: it judges values and gives values back.

pub mod hashing;
pub mod keys;
pub mod password;
mod pool;
pub mod refresh;
pub mod seals;
pub mod throttle;
pub mod token;
