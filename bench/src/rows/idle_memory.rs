//! Row 4: what an idle signed-in socket takes: resident memory with thousands of them, less that with one, by their
//! number. "Idle" is a socket of a real client between two calls: it has made one, and has been pinged since.

use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until};

use super::Plan;
use crate::Result;
use crate::client::Fleet;
use crate::cpu::{self, resident_kib};
use crate::gateway::User;
use crate::placement::Placement;
use crate::process::Process;
use crate::reference::{Reference, Reply};
use crate::table::{Figure, Outcome};
use crate::wire::{Carrier, call_text};

const GATE_KIB: f64 = 12.0;
/// The gateway pings every 25 s and takes no answer for 10 s.
const PINGED: Duration = Duration::from_secs(30);

/// KiB a socket at each stage of its life.
#[derive(Default)]
struct Idle {
    signed_in: f64,
    called: f64,
    pinged: Option<f64>,
    left_behind: f64,
    open_micros: f64,
}

impl Idle {
    fn most(&self) -> f64 {
        self.signed_in.max(self.called).max(self.pinged.unwrap_or(0.0))
    }

    fn line(&self, name: &str) -> String {
        let pinged = self.pinged.map(|kib| format!(", {kib:.2} after a ping")).unwrap_or_default();
        format!(
            "{name}: {:.2} KiB signed in, {:.2} after a call{pinged}, {:.2} left when closed; {:.0} µs of CPU to open",
            self.signed_in, self.called, self.left_behind, self.open_micros
        )
    }
}

/// Measures the row.
pub async fn measure(plan: &Plan) -> Result<Vec<Outcome>> {
    let (count, placement) = (plan.idle_sockets, Placement::WholeMachine);
    let gateway = plan.start_gateway(&[], placement).await?;
    eprintln!("  registering the users of {count} sockets");
    // One more than the sockets need: the first socket has a user of its own.
    let users = gateway.register_for(count + 1).await?;
    let (ours, answer) = fill(&gateway.process, &users, count, !plan.quick).await?;
    gateway.stop().await?;

    let reply = Reply { text: answer, headers: Vec::new() };
    let reference = Reference::start(Carrier::WebSocket, &reply, placement, &plan.processors).await?;
    let (theirs, _) = fill(&reference.process, &users, count, false).await?;
    reference.stop().await?;

    let kib = |value| Figure { value, unit: "KiB" };
    Ok(vec![Outcome {
        row: 4,
        what: format!("memory per idle signed-in socket, {count}"),
        ours: kib(ours.most()),
        reference: Some(kib(theirs.most())),
        ratio: Some(ours.most() / theirs.most()),
        gate: format!("≤ {GATE_KIB} KiB"),
        met: ours.most() <= GATE_KIB,
        details: vec![ours.line("ours"), theirs.line("reference")],
    }])
}

async fn fill(server: &Process, users: &[User], count: usize, wait_for_ping: bool) -> Result<(Idle, String)> {
    let text = call_text("users.get", r#"{"username":"me"}"#);
    let (last, others) = users.split_last().ok_or("no users")?;
    // One socket first, so that what a server sets up once is not counted.
    let mut one = Fleet::open(server.address, Carrier::WebSocket, 1, std::slice::from_ref(last), &text).await?;
    one.learn().await?;
    let base = settled_kib(server.pid).await?;
    let per_socket = |kib: u64| kib.saturating_sub(base) as f64 / count as f64;

    let (before, opened) = (cpu::read(server.pid)?, Instant::now());
    let others = if others.is_empty() { users } else { others };
    let mut fleet = Fleet::open(server.address, Carrier::WebSocket, count, others, &text).await?;
    let spent = before.until(&cpu::read(server.pid)?);
    let mut idle = Idle { open_micros: spent.total.as_secs_f64() * 1e6 / count as f64, ..Idle::default() };
    eprintln!("  {count} sockets open after {:.1?}", opened.elapsed());
    idle.signed_in = per_socket(settled_kib(server.pid).await?);
    let answer = fleet.learn().await?;
    idle.called = per_socket(settled_kib(server.pid).await?);
    if wait_for_ping {
        sleep_until((Instant::now() + PINGED).into()).await;
        idle.pinged = Some(per_socket(resident_kib(server.pid)?));
    }
    // Whoever was closed meanwhile shows here.
    drop(fleet.wake().await?);
    idle.left_behind = per_socket(settled_kib(server.pid).await?);
    Ok((idle, answer))
}

async fn settled_kib(pid: u32) -> Result<u64> {
    sleep(Duration::from_millis(1500)).await;
    resident_kib(pid)
}
