//! Row 9: a page of `users.list` costs the same however deep it lies. The last page of a million users against the
//! first, in the gateway's processor time. The data folder is filled once by the gateway's own example and kept.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::process::Command;

use super::{Plan, median, micros};
use crate::Result;
use crate::cpu;
use crate::gateway::{Gateway, User, register};
use crate::http::Http;
use crate::placement::Placement;
use crate::table::Outcome;

/// The embedded store within a data folder.
const DATABASE: &str = "doorward.db";
const PAGE: u64 = 200;
const PAGES_PER_ROUND: u32 = 100;
const GATE: f64 = 1.2;

/// Where a page begins: nothing for the first.
type Cursor = Option<String>;

/// What a page cost in one round.
struct Cost {
    cpu_micros: f64,
    wall_micros: f64,
}

/// Measures the row.
pub async fn measure(plan: &Plan) -> Result<Vec<Outcome>> {
    seed(&plan.seeded, plan.users).await?;
    let placement = Placement::OneCore;
    plan.processors.place_generator(placement)?;
    let gateway = Gateway::start(&plan.gateway, Some(&plan.seeded), &[], placement, &plan.processors).await?;
    let mut http = Http::connect(gateway.process.address, 0).await?;
    let reader = register(&mut http, "bench_reader").await?;
    let pages = plan.users / PAGE;
    let deep = walk(&mut http, &reader, pages).await?;

    let (mut first, mut last) = (Vec::new(), Vec::new());
    for round in 1..=plan.rounds {
        for (cursor, costs) in [(&None, &mut first), (&deep, &mut last)] {
            costs.push(cost(&mut http, &reader, cursor, gateway.process.pid).await?);
        }
        let cpu = |costs: &[Cost]| costs.last().map_or(f64::NAN, |cost| cost.cpu_micros);
        eprintln!("  round {round}: {:.0} µs the last page, {:.0} µs the first", cpu(&last), cpu(&first));
    }
    gateway.stop().await?;

    let cpu = |costs: &[Cost]| median(costs.iter().map(|cost| cost.cpu_micros));
    let wall = |costs: &[Cost]| median(costs.iter().map(|cost| cost.wall_micros)) / 1e3;
    let ratio = median(first.iter().zip(&last).map(|(first, last)| last.cpu_micros / first.cpu_micros));
    Ok(vec![Outcome {
        row: 9,
        what: format!("CPU of page {pages} of users.list, {} users", plan.users),
        ours: micros(cpu(&last)),
        reference: Some(micros(cpu(&first))),
        ratio: Some(ratio),
        gate: format!("≤ {GATE} × page 1"),
        met: ratio <= GATE,
        details: vec![format!(
            "pages of {PAGE}: {:.2} ms from call to answer, page 1 {:.2} ms",
            wall(&last),
            wall(&first)
        )],
    }])
}

/// Fills the folder unless it is there. The name changes only when it is complete.
async fn seed(folder: &Path, users: u64) -> Result<()> {
    if folder.exists() {
        return Ok(());
    }
    eprintln!("  making {users} users in {}", folder.display());
    let unfinished = folder.with_extension("unfinished");
    if unfinished.exists() {
        std::fs::remove_dir_all(&unfinished)?;
    }
    std::fs::create_dir_all(&unfinished)?;
    // The one that runs this, if any does: it tells the compilers of dependencies which toolchain is meant.
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["run", "--release", "--package", "doorward", "--example", "seed_users", "--"]);
    cargo.arg(unfinished.join(DATABASE)).arg(users.to_string()).current_dir(env!("CARGO_MANIFEST_DIR"));
    let status = cargo.kill_on_drop(true).status().await?;
    if !status.success() {
        return Err(format!("the example seed_users failed: {status}").into());
    }
    Ok(std::fs::rename(&unfinished, folder)?)
}

/// Reads page after page as a client would and returns the cursor of the last one. No user may come twice.
async fn walk(http: &mut Http, reader: &User, pages: u64) -> Result<Cursor> {
    let (mut cursor, started) = (None, Instant::now());
    let mut seen = std::collections::HashSet::new();
    for page in 1..pages {
        let result = list(http, reader, &cursor).await?;
        for user in result["users"].as_array().into_iter().flatten() {
            if !seen.insert(user["username"].as_str().unwrap_or_default().to_owned()) {
                return Err(format!("page {page} repeats {}", user["username"]).into());
            }
        }
        cursor = result["next_cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            return Err(format!("the list ends at page {page} of {pages}").into());
        }
    }
    eprintln!("  walked {} pages in {:.1?}", pages - 1, started.elapsed());
    Ok(cursor)
}

async fn cost(http: &mut Http, reader: &User, cursor: &Cursor, pid: u32) -> Result<Cost> {
    list(http, reader, cursor).await?;
    let before = cpu::read(pid)?;
    let mut wall = Duration::ZERO;
    for _ in 0..PAGES_PER_ROUND {
        let started = Instant::now();
        list(http, reader, cursor).await?;
        wall += started.elapsed();
    }
    let spent = before.until(&cpu::read(pid)?);
    let a_page = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(PAGES_PER_ROUND);
    Ok(Cost { cpu_micros: a_page(spent.total), wall_micros: a_page(wall) })
}

/// One full page.
async fn list(http: &mut Http, reader: &User, cursor: &Cursor) -> Result<Value> {
    let params = match cursor {
        Some(cursor) => json!({"limit": PAGE, "cursor": cursor}),
        None => json!({"limit": PAGE}),
    };
    let result = http.call("users.list", params, Some(&reader.token)).await?;
    match result["users"].as_array().map(Vec::len) {
        Some(users) if users as u64 == PAGE => Ok(result),
        users => Err(format!("a page of {PAGE} users has {users:?}").into()),
    }
}
