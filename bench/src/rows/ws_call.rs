//! Row 1: what one call costs on a WebSocket, one call in flight on each of 64 sockets.

use super::pair::Pair;
use super::{Plan, micros};
use crate::Result;
use crate::table::Outcome;
use crate::wire::Carrier;

const SOCKETS: usize = 64;
const GATE: f64 = 1.4;

/// Measures the row.
pub async fn measure(plan: &Plan) -> Result<Vec<Outcome>> {
    let mut pair = Pair::start(plan, Carrier::WebSocket, SOCKETS).await?;
    let rounds = match plan.pause {
        Some(server) => pair.hold(server, 1).await?,
        None => pair.closed_rounds(plan, 1).await?,
    };
    pair.stop().await?;

    let ((ours, theirs), ratio) = (rounds.cpu_micros(), rounds.cpu_ratio());
    Ok(vec![Outcome {
        row: 1,
        what: format!("CPU per WebSocket call, {SOCKETS} sockets"),
        ours: micros(ours),
        reference: Some(micros(theirs)),
        ratio: Some(ratio),
        gate: format!("≤ {GATE} × bare tokio-tungstenite"),
        met: ratio <= GATE,
        details: rounds.details(),
    }])
}
