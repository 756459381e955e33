//! Row 6: what one call costs over HTTP: `POST /rpc` with a bearer token, 64 connections kept alive.

use super::pair::Pair;
use super::{Plan, micros};
use crate::Result;
use crate::table::Outcome;
use crate::wire::Carrier;

const CONNECTIONS: usize = 64;
const GATE: f64 = 1.5;

/// Measures the row.
pub async fn measure(plan: &Plan) -> Result<Vec<Outcome>> {
    let mut pair = Pair::start(plan, Carrier::Http, CONNECTIONS).await?;
    let rounds = match plan.pause {
        Some(server) => pair.hold(server, 1).await?,
        None => pair.closed_rounds(plan, 1).await?,
    };
    pair.stop().await?;

    let ((ours, theirs), ratio) = (rounds.cpu_micros(), rounds.cpu_ratio());
    Ok(vec![Outcome {
        row: 6,
        what: format!("CPU per HTTP call, {CONNECTIONS} connections"),
        ours: micros(ours),
        reference: Some(micros(theirs)),
        ratio: Some(ratio),
        gate: format!("≤ {GATE} × bare hyper"),
        met: ratio <= GATE,
        details: rounds.details(),
    }])
}
