//! The users feed: places in it. What a list shows and what changes after it meet at a position.

pub mod position;
