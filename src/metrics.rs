//! What operators can watch: the names of all metrics, and the recorder that keeps them.
//!
//! Labels have few values, all of our own making: methods, codes, outcomes. No name, address or text of a client is ever
//! one. `docs/metrics.md` describes each. Without a recorder everything here costs next to nothing.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{Counter, Histogram, counter, histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::permission::Method;

/// Calls answered, by `method` and `code`.
pub const CALLS: &str = "doorward_calls_total";
/// Seconds from a call's arrival to its answer, by `method`.
pub const CALL_SECONDS: &str = "doorward_call_seconds";
/// Open sockets.
pub const SOCKETS: &str = "doorward_sockets";
/// Open sockets that have not signed in.
pub const SOCKETS_ANONYMOUS: &str = "doorward_sockets_anonymous";
/// Tasks of the runtime.
pub const TASKS: &str = "doorward_tasks";
/// Open subscriptions.
pub const SUBSCRIPTIONS: &str = "doorward_subscriptions";
/// Password hashes that wait for a thread.
pub const HASHES_WAITING: &str = "doorward_hashes_waiting";
/// Users looked up, by `result`: `hit` in memory, `miss` in the store.
pub const USER_LOOKUPS: &str = "doorward_user_lookups_total";
/// Changes published to this node's subscribers.
pub const FEED_CHANGES: &str = "doorward_feed_changes_total";
/// Pages of changes that were read from the store, by `reader`: the `tail`, or `others` who are behind.
pub const FEED_PAGES: &str = "doorward_feed_pages_total";
/// Seconds since everything that the store had was told.
pub const FEED_LAG: &str = "doorward_feed_lag_seconds";
/// Seconds since the feed's tail last heard of the store.
pub const FEED_SILENCE: &str = "doorward_feed_silence_seconds";
/// Requests to Elasticsearch, by `outcome`: `answered` or `failed`.
pub const STORE_REQUESTS: &str = "doorward_store_requests_total";
/// Seconds that each took.
pub const STORE_SECONDS: &str = "doorward_store_request_seconds";
/// 1 while requests to Elasticsearch fail at once, else 0.
pub const STORE_CIRCUIT_OPEN: &str = "doorward_store_circuit_open";
/// Attempts refused with 1302, by `what`: `login` or `registration`.
pub const THROTTLED: &str = "doorward_throttled_total";
/// Lines that standard error did not take, by `what`: `log` or `audit`.
pub const LOG_LOST: &str = "doorward_log_lost_total";

/// The upper ends of the histograms' buckets, in seconds: from an answer out of memory to a call's deadline.
const BUCKETS: [f64; 13] = [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// The recorder of this process, installed at the first call: metrics are kept from then on.
pub fn recorder() -> &'static PrometheusHandle {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    RECORDER.get_or_init(|| {
        let builder = PrometheusBuilder::new().set_buckets(&BUCKETS).expect("there are buckets");
        let recorder = builder.install_recorder().expect("no other recorder is installed");
        for what in ["log", "audit"] {
            counter!(LOG_LOST, "what" => what).increment(0);
        }
        recorder
    })
}

/// The metrics of calls: those of the usual outcome are looked up once.
pub struct Calls {
    /// By `Method as usize`.
    methods: Vec<(Counter, Histogram)>,
}

impl Calls {
    /// The metrics of every method.
    pub fn new() -> Self {
        let metrics = |method: &Method| {
            let name = method.name();
            (counter!(CALLS, "method" => name, "code" => "ok"), histogram!(CALL_SECONDS, "method" => name))
        };
        Self { methods: Method::ALL.iter().map(metrics).collect() }
    }

    /// Counts an answer to a method, or to none that there is: its error code, or `None` for a result.
    pub fn answered(&self, method: Option<Method>, code: Option<i32>, took: Duration) {
        let (ok, seconds) = match method {
            Some(method) => &self.methods[method as usize],
            None => &(Counter::noop(), Histogram::noop()),
        };
        seconds.record(took);
        match code {
            None => ok.increment(1),
            Some(code) => {
                let method = method.map_or("unknown", Method::name);
                counter!(CALLS, "method" => method, "code" => code.to_string()).increment(1);
            }
        }
    }
}

impl Default for Calls {
    fn default() -> Self {
        Self::new()
    }
}
