//! The gateway and its reference side by side, asked the same, one after the other.

use std::time::Duration;

use serde_json::Value;

use super::{Plan, Server, median};
use crate::Result;
use crate::client::Fleet;
use crate::gateway::Gateway;
use crate::http::Http;
use crate::load::{Measured, closed};
use crate::placement::Placement;
use crate::reference::{Reference, Reply};
use crate::wire::{Carrier, call_text};

/// The share of the time that server or generator may wait for their own processors in a round that counts.
const HARMLESS: f64 = 0.02;

/// Both servers on one processor (in turn: an idle server costs nothing), with their connections open.
pub struct Pair {
    gateway: Gateway,
    reference: Reference,
    ours: Fleet,
    theirs: Fleet,
}

/// What both did in the rounds of one row.
#[derive(Default)]
pub struct Rounds {
    /// The gateway, a round each.
    pub ours: Vec<Measured>,
    /// The reference, a round each.
    pub theirs: Vec<Measured>,
}

impl Pair {
    /// Starts both, with `count` connections each, that call `users.get` for their own user.
    pub async fn start(plan: &Plan, carrier: Carrier, count: usize) -> Result<Self> {
        let placement = Placement::OneCore;
        let gateway = plan.start_gateway(&[], placement).await?;
        let users = gateway.register_for(count).await?;
        let text = call_text("users.get", r#"{"username":"me"}"#);
        let address = gateway.process.address;
        let mut ours = Fleet::open(address, carrier, count, &users, &text).await?;
        let answer = ours.learn().await?;
        check_user(&answer)?;
        let headers = match carrier {
            Carrier::WebSocket => Vec::new(),
            Carrier::Http => Http::connect(address, 0).await?.call_headers(&text, &users[0].token).await?,
        };

        let reply = Reply { text: answer, headers };
        let reference = Reference::start(carrier, &reply, placement, &plan.processors).await?;
        let mut theirs = Fleet::open(reference.process.address, carrier, count, &users, &text).await?;
        theirs.learn().await?;
        Ok(Self { gateway, reference, ours, theirs })
    }

    /// Closed loops, ours and the reference's in turn.
    pub async fn closed_rounds(&mut self, plan: &Plan, depth: usize) -> Result<Rounds> {
        let mut rounds = Rounds::default();
        while rounds.wants_more(plan) {
            let (fleet, pid) = self.side(Server::Gateway);
            let ours = closed::measure(fleet, pid, depth, plan.duration).await?;
            let (fleet, pid) = self.side(Server::Reference);
            let theirs = closed::measure(fleet, pid, depth, plan.duration).await?;
            eprintln!(
                "  {:.2} µs at {:.0}/s, reference {:.2} µs at {:.0}/s",
                ours.cpu_micros(),
                ours.rate(),
                theirs.cpu_micros(),
                theirs.rate()
            );
            rounds.add(ours, theirs);
        }
        Ok(rounds.quietest(plan.rounds))
    }

    /// The connections to one of them, and its process.
    pub fn side(&mut self, server: Server) -> (&mut Fleet, u32) {
        match server {
            Server::Gateway => (&mut self.ours, self.gateway.process.pid),
            Server::Reference => (&mut self.theirs, self.reference.process.pid),
        }
    }

    /// Keeps one of them under a closed loop until the bench is interrupted.
    pub async fn hold(&mut self, server: Server, depth: usize) -> Result<Rounds> {
        let (fleet, pid) = self.side(server);
        announce_pause(server, pid);
        loop {
            let measured = closed::measure(fleet, pid, depth, Duration::from_secs(5)).await?;
            eprintln!("  {:.2} µs a call at {:.0}/s", measured.cpu_micros(), measured.rate());
        }
    }

    /// Closes the connections and stops both.
    pub async fn stop(self) -> Result<()> {
        drop((self.ours, self.theirs));
        self.reference.stop().await?;
        self.gateway.stop().await
    }
}

impl Rounds {
    /// Whether to go on: until there are as many undisturbed rounds as planned, or three times as many of any kind.
    pub fn wants_more(&self, plan: &Plan) -> bool {
        let quiet = (0..self.ours.len()).filter(|&round| self.disturbance(round) <= HARMLESS).count();
        quiet < plan.rounds && self.ours.len() < 3 * plan.rounds
    }

    /// Adds one round.
    pub fn add(&mut self, ours: Measured, theirs: Measured) {
        self.ours.push(ours);
        self.theirs.push(theirs);
    }

    /// The rounds in which others took the least of the processors. What they measured does not matter.
    pub fn quietest(self, rounds: usize) -> Self {
        let mut order: Vec<usize> = (0..self.ours.len()).collect();
        order.sort_by(|&one, &other| self.disturbance(one).total_cmp(&self.disturbance(other)));
        order.truncate(rounds);
        let pick = |measured: &[Measured]| order.iter().map(|&round| measured[round].clone()).collect();
        Self { ours: pick(&self.ours), theirs: pick(&self.theirs) }
    }

    fn disturbance(&self, round: usize) -> f64 {
        self.ours[round].disturbance().max(self.theirs[round].disturbance())
    }

    /// A line for the reader when no quiet rounds were to be had.
    pub fn warning(&self) -> Option<String> {
        let share = median((0..self.ours.len()).map(|round| self.disturbance(round)));
        (share > HARMLESS).then(|| {
            format!(
                "others kept server or generator waiting {:.0} % of the time: repeat it on a quiet machine",
                share * 100.0
            )
        })
    }

    /// Median processor time a call, in microseconds: ours and the reference's.
    pub fn cpu_micros(&self) -> (f64, f64) {
        self.medians(Measured::cpu_micros)
    }

    /// The median over the rounds of any figure: ours and the reference's.
    pub fn medians(&self, figure: impl Fn(&Measured) -> f64) -> (f64, f64) {
        (median(self.ours.iter().map(&figure)), median(self.theirs.iter().map(&figure)))
    }

    /// The median over the rounds of ours by the reference's: what was disturbed disturbed both.
    pub fn cpu_ratio(&self) -> f64 {
        median(self.ours.iter().zip(&self.theirs).map(|(ours, theirs)| ours.cpu_micros() / theirs.cpu_micros()))
    }

    /// Throughput, latency and the share of the kernel, and whether the machine was quiet.
    pub fn details(&self) -> Vec<String> {
        let ((rate, their_rate), (p50, their_p50)) =
            (self.medians(Measured::rate), self.medians(|m| m.latency_ms(0.5)));
        let (p99, their_p99) = self.medians(|m| m.latency_ms(0.99));
        let (kernel, their_kernel) = self.medians(|m| m.system_share() * 100.0);
        let line = |name, rate, p50, p99, kernel| {
            format!(
                "{name}: {rate:.0} calls/s, p50 {p50:.2} ms, p99 {p99:.2} ms, {kernel:.0} % of the CPU in the kernel"
            )
        };
        let ours = line("ours", rate, p50, p99, kernel);
        let theirs = line("reference", their_rate, their_p50, their_p99, their_kernel);
        [ours, theirs].into_iter().chain(self.warning()).collect()
    }
}

/// Tells how to attach a profiler.
pub fn announce_pause(server: Server, pid: u32) {
    eprintln!("  {server:?} is process {pid}, under load until Ctrl-C; for a profile:");
    eprintln!("  perf record -g -p {pid} -- sleep 10");
}

/// The answer must be the caller's own user in full form, or a reference would send less than it should.
fn check_user(answer: &str) -> Result<()> {
    let answer: Value = serde_json::from_str(answer)?;
    let user = &answer["result"]["user"];
    if user["username"].as_str().is_none_or(|name| !name.starts_with("bench")) || user["email"].is_null() {
        return Err(format!("users.get does not answer with the caller: {answer}").into());
    }
    Ok(())
}
