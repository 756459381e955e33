//! `system.*`: what this gateway is and whether it is there.

use jsonrpsee::proc_macros::rpc;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::error::RpcError;
use super::params::Named;
use super::{Handlers, MAX_DEPTH};
use crate::clock::Time;
use crate::store::SEARCH_COUNT_MAX;

/// Parameters of methods that take none.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoParams {}

/// Result of `system.info`.
#[derive(Clone, Serialize)]
pub struct Info {
    version: &'static str,
    protocol: u32,
    node: String,
    limits: Value,
    features: Vec<&'static str>,
}

/// Result of `system.ping`.
#[derive(Clone, Serialize)]
pub struct Pong {
    time: Time,
}

/// The methods of the namespace.
#[rpc(server, namespace = "system", namespace_separator = ".")]
pub trait System {
    /// `system.info`: version, limits and features.
    #[method(name = "info")]
    async fn info(&self, params: Named<NoParams>) -> Result<Info, RpcError>;

    /// `system.ping`: the server's time.
    #[method(name = "ping")]
    async fn ping(&self, params: Named<NoParams>) -> Result<Pong, RpcError>;
}

#[jsonrpsee::core::async_trait]
impl SystemServer for Handlers {
    async fn info(&self, params: Named<NoParams>) -> Result<Info, RpcError> {
        params.get()?;
        let (limits, timeouts) = (&self.config.limits, &self.config.timeouts);
        let limits = json!({
            "message_bytes": limits.message_bytes,
            "nesting": MAX_DEPTH,
            "reply_bytes": limits.reply_bytes,
            "batch_calls": limits.batch_calls,
            "calls_in_flight": limits.calls_in_flight,
            "calls_per_second": limits.calls_per_second,
            "calls_burst": limits.calls_burst,
            "subscriptions_per_socket": limits.subscriptions,
            "sockets": limits.sockets,
            "sockets_per_user": limits.sockets_per_user,
            "sessions_per_user": limits.sessions_per_user,
            "unauthenticated_sockets_per_address": limits.unauthenticated_per_address,
            "search_count_max": SEARCH_COUNT_MAX,
            "password_min_chars": self.config.password_min,
            "password_hash_ms": self.hasher.time_per_hash().as_secs_f64() * 1000.0,
            "access_token_seconds": self.config.token_life.as_secs(),
            "session_idle_seconds": self.config.sessions.idle.as_secs(),
            "session_seconds": self.config.sessions.whole.as_secs(),
            "call_seconds": self.config.call_timeout.as_secs(),
            "sign_in_seconds": timeouts.sign_in.as_secs(),
            "head_seconds": timeouts.head.as_secs(),
            "keep_alive_seconds": timeouts.keep_alive.as_secs(),
            "body_seconds": timeouts.body.as_secs(),
            "message_seconds": timeouts.message.as_secs(),
            "ping_seconds": timeouts.ping.as_secs(),
            "pong_seconds": timeouts.pong.as_secs(),
            "write_seconds": timeouts.write.as_secs(),
        });
        let store = if self.config.elastic.is_some() { "store:elasticsearch" } else { "store:sqlite" };
        Ok(Info {
            version: env!("CARGO_PKG_VERSION"),
            protocol: 1,
            node: self.node.clone(),
            limits,
            features: vec!["feed", "rest", "search", "sessions", store],
        })
    }

    async fn ping(&self, params: Named<NoParams>) -> Result<Pong, RpcError> {
        params.get()?;
        Ok(Pong { time: self.clock.now() })
    }
}
