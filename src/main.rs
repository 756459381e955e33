//! The command line: settings in, a running gateway or one clear line out.
#![expect(clippy::print_stdout, reason = "a command line speaks on standard output")]

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use doorward::clock::Clock;
use doorward::config::{Config, LogFormat};
use doorward::server::Server;
use doorward::signals::Signals;
use doorward::store::elastic;
use doorward::watch::Credentials;
use doorward::{admin, health, watch};
use tokio::runtime::Runtime;
use tracing_subscriber::filter::{FilterExt, LevelFilter, Targets, filter_fn};
use tracing_subscriber::prelude::*;

/// A realtime users gateway. Settings come from the environment or a file .env; .env.example lists them all.
#[derive(Parser)]
#[command(version)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway (the default).
    Serve,
    /// Make admins, also while the gateway runs.
    #[command(subcommand)]
    Admin(Admin),
    /// Make the Elasticsearch indices, or bring them up to this version while gateways serve.
    Migrate {
        /// Make this index anew, which is lost: `emails` from the users, `sessions` and `state` empty. May be given again.
        #[arg(long, value_name = "INDEX")]
        rebuild: Vec<elastic::Rebuild>,
    },
    /// Check the settings without starting.
    CheckConfig,
    /// Ask a running gateway whether it is ready: exit 0 when it is.
    Health {
        /// Where to ask; the listen address of the settings when absent.
        #[arg(long)]
        url: Option<String>,
    },
    /// Print users as they change; reconnects and goes on where it was by itself.
    Watch {
        /// Where to connect, as ws://HOST:PORT/rpc or wss://HOST/rpc; the listen address of the settings when absent.
        #[arg(long)]
        url: Option<String>,
        /// A file of certificates (PEM) of an authority to trust besides the public ones.
        #[arg(long)]
        ca_file: Option<PathBuf>,
        /// An access token to watch with.
        #[arg(long, conflicts_with = "login", required_unless_present = "login")]
        token: Option<String>,
        /// A username or e-mail address to log in with.
        #[arg(long)]
        login: Option<String>,
        /// Read the password from the first line of standard input instead of asking.
        #[arg(long, requires = "login")]
        password_stdin: bool,
        /// Only users that match this filter, as JSON.
        #[arg(long, value_parser = |text: &str| serde_json::from_str::<serde_json::Value>(text))]
        filter: Option<serde_json::Value>,
        /// Everything behind this position; `start` is everything.
        #[arg(long)]
        since: Option<String>,
        /// One line of JSON a change.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
enum Admin {
    /// Make a new user who is an admin.
    Create {
        /// The name to take for good.
        username: String,
        /// The private e-mail address.
        #[arg(long)]
        email: String,
        /// Read the password from the first line of standard input instead of asking.
        #[arg(long)]
        password_stdin: bool,
    },
    /// Make an existing user an admin.
    Promote {
        /// Their name.
        username: String,
    },
}

fn main() -> ExitCode {
    let command = CommandLine::parse().command.unwrap_or(Command::Serve);
    let config = match Config::from_env() {
        Ok(config) => config,
        Err(problems) => {
            for problem in &problems {
                eprintln!("doorward: {problem}");
            }
            return ExitCode::FAILURE;
        }
    };
    start_log(&config, matches!(command, Command::Serve));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(error),
    };
    let code = run(command, config, &runtime);
    // Whatever still waits for the system, such as a name to be resolved, is not waited for.
    runtime.shutdown_background();
    code
}

fn run(command: Command, config: Config, runtime: &Runtime) -> ExitCode {
    match command {
        Command::Serve => runtime.block_on(serve(config)),
        Command::Admin(Admin::Create { username, email, password_stdin }) => {
            match runtime.block_on(admin::create(&config, &username, &email, password_stdin)) {
                Ok(user) => succeed(format_args!("{} is an admin now.", user.username)),
                Err(error) => fail(error),
            }
        }
        Command::Admin(Admin::Promote { username }) => match runtime.block_on(admin::promote(&config, &username)) {
            Ok(user) => succeed(format_args!("{} is an admin now.", user.username)),
            Err(error) => fail(error),
        },
        Command::Migrate { rebuild } => runtime.block_on(migrate(&config, &rebuild)),
        Command::CheckConfig => succeed("The settings are good."),
        Command::Health { url } => {
            let url = url.unwrap_or_else(|| format!("http://{}/readyz", config.listen));
            match runtime.block_on(health::ask(&url)) {
                Ok(()) => succeed("ready"),
                Err(error) => fail(error),
            }
        }
        Command::Watch { url, ca_file, token, login, password_stdin, filter, since, json } => {
            let credentials = match (token, login) {
                (Some(token), _) => Credentials::Token(token.into()),
                (None, login) => match admin::read_password(password_stdin, false) {
                    Ok(password) => Credentials::Login(login.unwrap_or_default(), password),
                    Err(error) => return fail(format_args!("the password cannot be read: {error}")),
                },
            };
            let url = url.unwrap_or_else(|| format!("ws://{}/rpc", config.listen));
            let filter = filter.unwrap_or_default();
            match runtime.block_on(watch::run(watch::Options { url, ca_file, credentials, filter, since, json })) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(error),
            }
        }
    }
}

fn succeed(line: impl std::fmt::Display) -> ExitCode {
    println!("{line}");
    ExitCode::SUCCESS
}

fn fail(error: impl std::fmt::Display) -> ExitCode {
    eprintln!("doorward: {error}");
    ExitCode::FAILURE
}

/// Sends log lines to standard error. The other commands only tell what went wrong, and have a part in the audit trail.
fn start_log(config: &Config, serving: bool) {
    let targets: Targets = config.log.parse().expect("`config` has checked it");
    let of_commands = Targets::new().with_default(tracing::Level::ERROR).with_target("audit", tracing::Level::INFO);
    let targets = if serving { targets } else { of_commands };
    // At their lowest levels dependencies write whole frames, headers and bodies, passwords and tokens in them. No setting has
    // them do so: what is ours is logged as asked for, what is theirs down to `info`.
    let ours = |target: &str| matches!(target.split("::").next(), Some("doorward" | "audit"));
    let harmless = filter_fn(move |line| *line.level() <= tracing::Level::INFO || ours(line.target()));
    let filter = targets.and(harmless.with_max_level_hint(LevelFilter::TRACE));
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    match config.log_format {
        LogFormat::Text => tracing_subscriber::registry().with(lines.with_filter(filter)).init(),
        LogFormat::Json => tracing_subscriber::registry().with(lines.json().with_filter(filter)).init(),
    }
}

async fn migrate(config: &Config, rebuild: &[elastic::Rebuild]) -> ExitCode {
    let Some(elastic) = &config.elastic else {
        return succeed("Nothing to do: the embedded store is brought up to date at every start.");
    };
    match elastic::migrate(elastic, rebuild, &|line| eprintln!("doorward: {line}")).await {
        Ok(done) => {
            for migration in done {
                println!("{migration}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => fail(error),
    }
}

async fn serve(config: Config) -> ExitCode {
    let mut signals = match Signals::catch() {
        Ok(signals) => signals,
        Err(error) => return fail(error),
    };
    let started = tokio::select! {
        started = Server::start(config, Clock::default()) => started,
        // It may wait for its store for long.
        () = signals.next() => return ExitCode::SUCCESS,
    };
    let server = match started {
        Ok(server) => server,
        Err(error) => return fail(error),
    };
    let address = server.address();
    println!("Doorward {} listens on http://{address} (WebSocket: ws://{address}/rpc).", env!("CARGO_PKG_VERSION"));
    if let Some(metrics) = server.metrics() {
        println!("Metrics for Prometheus are at http://{metrics}/metrics.");
    }
    println!("Users are kept in {}.", server.home());
    let program = std::env::current_exe().map_or_else(|_| "doorward".to_owned(), |path| path.display().to_string());
    println!("Make the first admin from another terminal, in this folder: {program} admin create NAME --email ADDRESS");
    println!("Ctrl-C stops it.");
    signals.next().await;
    tracing::info!("stopping; a second signal stops at once");
    tokio::select! {
        () = server.stop() => ExitCode::SUCCESS,
        () = signals.next() => fail("stopped at once by a second signal"),
    }
}
