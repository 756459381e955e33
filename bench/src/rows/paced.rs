//! Row 2: how long calls take at half of saturation: 1,000 sockets, calls at fixed times, latency from the time each
//! was meant to leave. Saturation is measured first, in the same run, by a closed loop on the same sockets.

use std::time::Duration;

use super::pair::{Pair, Rounds, announce_pause};
use super::{Plan, Server, median, millis};
use crate::Result;
use crate::load::{Measured, closed, open};
use crate::table::Outcome;
use crate::wire::Carrier;

const SOCKETS: usize = 1_000;
const GATE_MS: f64 = 2.0;

/// Measures the row. The reference is paced like the gateway, so it idles more.
pub async fn measure(plan: &Plan) -> Result<Vec<Outcome>> {
    let mut pair = Pair::start(plan, Carrier::WebSocket, SOCKETS).await?;
    let (fleet, pid) = pair.side(Server::Gateway);
    let saturation = closed::measure(fleet, pid, 1, plan.duration).await?.rate_of_a_processor();
    let rate = saturation / 2.0;
    eprintln!("  saturation {saturation:.0}/s, paced at {rate:.0}/s");
    if let Some(server) = plan.pause {
        hold(&mut pair, server, rate).await?;
    }

    let mut rounds = Rounds::default();
    while rounds.wants_more(plan) {
        let (fleet, pid) = pair.side(Server::Gateway);
        let ours = open::measure(fleet, pid, rate, open::Pace::Spin, plan.duration).await?;
        let (fleet, pid) = pair.side(Server::Reference);
        let theirs = open::measure(fleet, pid, rate, open::Pace::Spin, plan.duration).await?;
        eprintln!("  p99 {:.2} ms, reference {:.2} ms", ours.latency_ms(0.99), theirs.latency_ms(0.99));
        rounds.add(ours, theirs);
    }
    pair.stop().await?;
    let rounds = rounds.quietest(plan.rounds);

    let quantile = |measured: &[Measured], at| median(measured.iter().map(|one| one.latency_ms(at)));
    let line = |name, measured: &[Measured]| {
        let [p50, p999, most] = [0.5, 0.999, 1.0].map(|at| quantile(measured, at));
        let late = median(measured.iter().map(|one| one.lateness_ms(0.99)));
        format!(
            "{name}: p50 {p50:.2} ms, p99.9 {p999:.2} ms, longest {most:.2} ms; calls left late by p99 {late:.2} ms"
        )
    };
    let mut details = vec![
        format!("saturation {saturation:.0} calls/s on one core; both paced at {rate:.0}/s"),
        line("ours", &rounds.ours),
        line("reference", &rounds.theirs),
    ];
    details.extend(rounds.warning());
    let (p99, their_p99) = rounds.medians(|measured| measured.latency_ms(0.99));
    Ok(vec![Outcome {
        row: 2,
        what: format!("p99 of {SOCKETS} sockets at half of saturation"),
        ours: millis(p99),
        reference: Some(millis(their_p99)),
        ratio: Some(p99 / their_p99),
        gate: format!("≤ {GATE_MS} ms"),
        met: p99 <= GATE_MS,
        details,
    }])
}

async fn hold(pair: &mut Pair, server: Server, rate: f64) -> Result<()> {
    let (fleet, pid) = pair.side(server);
    announce_pause(server, pid);
    loop {
        let measured = open::measure(fleet, pid, rate, open::Pace::Spin, Duration::from_secs(5)).await?;
        eprintln!("  p50 {:.2} ms, p99 {:.2} ms", measured.latency_ms(0.5), measured.latency_ms(0.99));
    }
}
