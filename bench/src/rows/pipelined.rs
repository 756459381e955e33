//! Row 3: clients that do not wait: 32 calls in flight on each of 64 sockets, the server on one processor.

use super::pair::Pair;
use super::{Plan, micros};
use crate::Result;
use crate::load::Measured;
use crate::table::Outcome;
use crate::wire::Carrier;

const SOCKETS: usize = 64;
/// As many as the gateway takes from one socket before it stops reading.
const DEPTH: usize = 32;
const GATE_RATE: f64 = 300_000.0;
const GATE_RATIO: f64 = 3.5;

/// Measures the row.
pub async fn measure(plan: &Plan) -> Result<Vec<Outcome>> {
    let mut pair = Pair::start(plan, Carrier::WebSocket, SOCKETS).await?;
    let rounds = match plan.pause {
        Some(server) => pair.hold(server, DEPTH).await?,
        None => pair.closed_rounds(plan, DEPTH).await?,
    };
    pair.stop().await?;

    let ((ours, theirs), ratio) = (rounds.cpu_micros(), rounds.cpu_ratio());
    let (rate, _) = rounds.medians(Measured::rate_of_a_processor);
    let on_one_core = format!("ours: {rate:.0} calls in a second of one processor");
    Ok(vec![Outcome {
        row: 3,
        what: format!("CPU per call, {DEPTH} pipelined on {SOCKETS} sockets"),
        ours: micros(ours),
        reference: Some(micros(theirs)),
        ratio: Some(ratio),
        gate: "≥ 300,000 calls/s on one core, or ≤ 3.5 × bare".to_owned(),
        met: rate >= GATE_RATE || ratio <= GATE_RATIO,
        details: std::iter::once(on_one_core).chain(rounds.details()).collect(),
    }])
}
