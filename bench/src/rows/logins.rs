//! Row 7: logins cost a password hash by design. There should be as many a second as the processors can hash, and
//! other calls should not notice. Half a thousand paced calls a second are those others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::{Plan, median, millis};
use crate::Result;
use crate::client::Fleet;
use crate::cpu;
use crate::gateway::{Gateway, PASSWORD, User};
use crate::http::Http;
use crate::load::{Measured, open};
use crate::placement::Placement;
use crate::table::{Figure, Outcome};
use crate::wire::{Carrier, call_text};

const COST: &str = "12";
/// Clients that log in one after the other: enough that no processor waits for one.
const CLIENTS: usize = 8;
/// Other calls: few enough to leave the processors to the hashes.
const SOCKETS: usize = 64;
const CALLS_PER_SECOND: f64 = 500.0;
const GATE_SHARE: f64 = 0.9;
const GATE_P99_MS: f64 = 20.0;

/// A window of logins with calls beside them.
struct Window {
    logins_per_second: f64,
    busy_processors: f64,
    /// Processors that programs other than the server and the generator kept busy.
    others: f64,
    calls: Measured,
}

/// Measures the row.
pub async fn measure(plan: &Plan) -> Result<Vec<Outcome>> {
    let settings = [("DOORWARD_BCRYPT_COST", COST.to_owned())];
    let gateway = plan.start_gateway(&settings, Placement::WholeMachine).await?;
    let users = gateway.register(CLIENTS).await?;
    let (address, pid) = (gateway.process.address, gateway.process.pid);
    let text = call_text("users.get", r#"{"username":"me"}"#);
    let mut fleet = Fleet::open(address, Carrier::WebSocket, SOCKETS, &users, &text).await?;
    fleet.learn().await?;

    let hash_ms = hash_ms(&gateway, &users[0]).await?;
    let served = gateway_hash_ms(&gateway).await;
    let most = plan.processors.count() as f64 * 1e3 / hash_ms;
    eprintln!("  one login alone takes {hash_ms:.1} ms: at most {most:.2} logins/s");
    // Ten logins at the least, or one more or less would be too much of them.
    let duration = plan.duration.max(Duration::from_secs_f64(10.0 / most)) * 2;

    let (mut windows, mut quiet) = (Vec::new(), Vec::new());
    for round in 1..=plan.rounds {
        let window = window(&gateway, &users, &mut fleet, duration).await?;
        eprintln!(
            "  round {round}: {:.2} logins/s, other calls p99 {:.2} ms",
            window.logins_per_second,
            window.calls.latency_ms(0.99)
        );
        windows.push(window);
        quiet.push(open::measure(&mut fleet, pid, CALLS_PER_SECOND, open::Pace::Sleep, plan.duration).await?);
    }
    drop(fleet);
    gateway.stop().await?;

    let rate = median(windows.iter().map(|window| window.logins_per_second));
    let busy = median(windows.iter().map(|window| window.busy_processors));
    let others = median(windows.iter().map(|window| window.others));
    let p99 = median(windows.iter().map(|window| window.calls.latency_ms(0.99)));
    let longest = median(windows.iter().map(|window| window.calls.latency_ms(1.0)));
    let quiet_p99 = median(quiet.iter().map(|calls| calls.latency_ms(0.99)));
    let per_second = |value| Figure { value, unit: "logins/s" };
    let served = served.map_or("system.info does not tell".to_owned(), |ms| format!("system.info says {ms:.1} ms"));
    Ok(vec![
        Outcome {
            row: 7,
            what: format!("logins, {CLIENTS} clients, cost {COST}"),
            ours: per_second(rate),
            reference: Some(per_second(most)),
            ratio: Some(rate / most),
            gate: "≥ 90 % of cores ÷ hash time".to_owned(),
            met: rate >= GATE_SHARE * most,
            details: vec![
                format!("a login alone takes {hash_ms:.1} ms on {} cores; {served}", plan.processors.count()),
                format!(
                    "{busy:.2} processors busy, {:.1} ms of CPU a login; other programs kept {others:.2} busy",
                    busy * 1e3 / rate
                ),
            ],
        },
        Outcome {
            row: 7,
            what: format!("p99 of {CALLS_PER_SECOND:.0} other calls/s meanwhile"),
            ours: millis(p99),
            reference: Some(millis(quiet_p99)),
            ratio: Some(p99 / quiet_p99),
            gate: format!("≤ {GATE_P99_MS} ms"),
            met: p99 <= GATE_P99_MS,
            details: vec![format!("longest {longest:.2} ms; the reference is the same without logins")],
        },
    ])
}

/// The time of a login while nothing else happens, which is all but the hash.
async fn hash_ms(gateway: &Gateway, user: &User) -> Result<f64> {
    const LOGINS: usize = 7;
    let mut http = Http::connect(gateway.process.address, 0).await?;
    let mut times = Vec::with_capacity(LOGINS);
    for _ in 0..LOGINS {
        let started = Instant::now();
        log_in(&mut http, user).await?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(median(times))
}

async fn gateway_hash_ms(gateway: &Gateway) -> Option<f64> {
    let mut http = Http::connect(gateway.process.address, 0).await.ok()?;
    http.call("system.info", json!({}), None).await.ok()?["limits"]["password_hash_ms"].as_f64()
}

async fn log_in(http: &mut Http, user: &User) -> Result<()> {
    let result = http.call("auth.login", json!({"login": user.username, "password": PASSWORD}), None).await?;
    match result["user"]["username"].as_str() {
        Some(name) if name == user.username => Ok(()),
        _ => Err(format!("a login of {} gave {result}", user.username).into()),
    }
}

async fn window(gateway: &Gateway, users: &[User], fleet: &mut Fleet, duration: Duration) -> Result<Window> {
    let (done, stopping) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut clients: Vec<JoinHandle<Result<()>>> = Vec::new();
    for (index, user) in users.iter().enumerate() {
        let mut http = Http::connect(gateway.process.address, index).await?;
        let (user, done, stopping) = (user.clone(), done.clone(), stopping.clone());
        clients.push(tokio::spawn(async move {
            while !stopping.load(Ordering::Relaxed) {
                log_in(&mut http, &user).await?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        }));
    }
    // Until every hashing thread has its queue.
    sleep(Duration::from_millis(500)).await;

    let (pid, machine) = (gateway.process.pid, cpu::whole_machine()?);
    let (before, first, started) = (cpu::read(pid)?, done.load(Ordering::Relaxed), Instant::now());
    let calls = open::measure(fleet, pid, CALLS_PER_SECOND, open::Pace::Sleep, duration).await?;
    let (logins, elapsed) = (done.load(Ordering::Relaxed) - first, started.elapsed().as_secs_f64());
    let spent = before.until(&cpu::read(pid)?).total;
    let others =
        (cpu::whole_machine()? - machine).saturating_sub(spent + calls.generator.total).as_secs_f64() / elapsed;

    stopping.store(true, Ordering::Relaxed);
    for client in clients {
        client.await??;
    }
    let (logins_per_second, busy_processors) = (logins as f64 / elapsed, spent.as_secs_f64() / elapsed);
    Ok(Window { logins_per_second, busy_processors, others, calls })
}
