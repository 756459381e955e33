//! The command `table`: measures the rows asked for and prints what came out.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::Result;
use crate::placement::Processors;
use crate::rows::{self, Plan};

/// The exit code when a gate was missed and `--strict` was given.
pub const MISSED: u8 = 3;

/// What to measure, and how long.
#[derive(clap::Args)]
pub struct Options {
    /// The rows, by their numbers.
    #[arg(long, value_delimiter = ',', default_values_t = rows::ALL)]
    pub rows: Vec<u8>,
    /// Measurements of each server, taken in turn; the median counts.
    #[arg(long)]
    pub rounds: Option<usize>,
    /// Length of one measurement.
    #[arg(long)]
    seconds: Option<u64>,
    /// The gateway; by default the one beside this program.
    #[arg(long)]
    pub gateway: Option<PathBuf>,
    /// Write the figures here as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Three rounds of one second, 2,000 idle sockets, 100,000 listed users: for a look, not for a record.
    #[arg(long)]
    quick: bool,
    /// Exit with 3 when a gate is missed.
    #[arg(long)]
    pub strict: bool,
    /// Keep a server under the load of the one row asked for until Ctrl-C, for `perf` (rows 1, 2, 3 and 6).
    #[arg(long, value_name = "SERVER", num_args = 0..=1, default_missing_value = "gateway")]
    pause: Option<rows::Server>,
    /// Users to list in row 9.
    #[arg(long)]
    users: Option<u64>,
    /// Data folder of row 9, filled on first use; by default in the target directory.
    #[arg(long)]
    seeded: Option<PathBuf>,
}

/// A measured quantity.
#[derive(Serialize, Clone, Copy)]
pub struct Figure {
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = match self.value.abs() {
            large if large >= 1000.0 => 0,
            middle if middle >= 100.0 => 1,
            _ => 2,
        };
        write!(f, "{:.digits$} {}", self.value, self.unit)
    }
}

/// One line of the table.
#[derive(Serialize)]
pub struct Outcome {
    /// Which row of the gates.
    pub row: u8,
    /// What was measured.
    pub what: String,
    /// The gateway's figure.
    pub ours: Figure,
    /// The figure it is held against, taken in the same run.
    pub reference: Option<Figure>,
    /// Ours by the reference's.
    pub ratio: Option<f64>,
    /// What is wanted.
    pub gate: String,
    /// Whether it was reached.
    pub met: bool,
    /// What helps to read the figures.
    pub details: Vec<String>,
}

/// Measures and prints. Fails unless every row could be measured.
pub fn run(options: Options) -> Result<ExitCode> {
    let plan = plan(&options)?;
    let (outcomes, failures) = until_interrupted(measure(&options.rows, &plan))?;
    print(&outcomes);
    for failure in &failures {
        println!("{failure}");
    }
    if let Some(path) = options.json {
        fs::write(path, serde_json::to_vec_pretty(&outcomes)?)?;
    }
    Ok(match (failures.is_empty(), outcomes.iter().all(|outcome| outcome.met)) {
        (false, _) => ExitCode::FAILURE,
        (true, false) if options.strict => ExitCode::from(MISSED),
        (true, _) => ExitCode::SUCCESS,
    })
}

/// Runs what measures to its end, or until a signal.
pub fn until_interrupted<T>(work: impl Future<Output = T>) -> Result<T> {
    raise_open_files()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(async {
        tokio::select! {
            done = work => Ok(done),
            // Returning drops the servers, which ends them, and their folders.
            _ = tokio::signal::ctrl_c() => Err("interrupted"),
            () = terminated() => Err("terminated"),
        }
    })?)
}

/// Waits for SIGTERM.
async fn terminated() {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => drop(terminate.recv().await),
        // Then SIGTERM ends the bench at once, as it does any program.
        Err(_) => std::future::pending().await,
    }
}

/// What the options ask for.
pub fn plan(options: &Options) -> Result<Plan> {
    let beside = std::env::current_exe()?;
    let gateway = options.gateway.clone().unwrap_or_else(|| beside.with_file_name("doorward"));
    if !gateway.is_file() {
        return Err(format!("no gateway at {}: build it, or say --gateway", gateway.display()).into());
    }
    let quick = options.quick;
    let users = options.users.unwrap_or(if quick { 100_000 } else { 1_000_000 });
    let seeded = options.seeded.clone().unwrap_or_else(|| beside.with_file_name(format!("bench-users-{users}")));
    Ok(Plan {
        gateway: gateway.canonicalize()?,
        processors: Processors::of_this_process()?,
        rounds: options.rounds.unwrap_or(if quick { 3 } else { 5 }).max(1),
        duration: Duration::from_secs(options.seconds.unwrap_or(if quick { 1 } else { 3 }).max(1)),
        idle_sockets: if quick { 2_000 } else { 10_000 },
        users,
        seeded,
        pause: options.pause,
        quick,
    })
}

async fn measure(wanted: &[u8], plan: &Plan) -> (Vec<Outcome>, Vec<String>) {
    let (mut outcomes, mut failures) = (Vec::new(), Vec::new());
    for &row in wanted {
        eprintln!("row {row}: {}", rows::subject(row));
        match rows::measure(row, plan).await {
            Ok(measured) => outcomes.extend(measured),
            Err(failure) => {
                eprintln!("  not measured: {failure}");
                failures.push(format!("row {row} was not measured: {failure}"));
            }
        }
    }
    (outcomes, failures)
}

fn print(outcomes: &[Outcome]) {
    let head = ["row", "what", "ours", "reference", "ratio", "gate", ""].map(str::to_owned);
    let lines = outcomes.iter().map(|outcome| {
        [
            outcome.row.to_string(),
            outcome.what.clone(),
            outcome.ours.to_string(),
            outcome.reference.map_or_else(|| "-".to_owned(), |figure| figure.to_string()),
            outcome.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
            outcome.gate.clone(),
            if outcome.met { "pass" } else { "MISSED" }.to_owned(),
        ]
    });
    let lines: Vec<[String; 7]> = std::iter::once(head).chain(lines).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..7).map(width).collect();
    for (number, line) in lines.iter().enumerate() {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        println!("{}", cells.join("  ").trim_end());
        let Some(outcome) = number.checked_sub(1).map(|number| &outcomes[number]) else { continue };
        for detail in &outcome.details {
            println!("     · {detail}");
        }
    }
}

/// Lets this process have as many files open as the system allows: ten thousand sockets need them.
pub fn raise_open_files() -> Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}
