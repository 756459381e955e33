//! The command line: settings in, a running gateway or one clear line out.
#![expect(clippy::print_stdout, reason = "a command line speaks on standard output")]

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use doorward::clock::Clock;
use doorward::config::{Config, LogFormat};
use doorward::server::Server;
use doorward::{admin, health};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::filter::Targets;
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
    /// Check the settings without starting.
    CheckConfig,
    /// Ask a running gateway whether it is ready: exit 0 when it is.
    Health {
        /// Where to ask; the listen address of the settings when absent.
        #[arg(long)]
        url: Option<String>,
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
        Command::CheckConfig => succeed("The settings are good."),
        Command::Health { url } => {
            let url = url.unwrap_or_else(|| format!("http://{}/readyz", config.listen));
            match runtime.block_on(health::ask(&url)) {
                Ok(()) => succeed("ready"),
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

/// Sends log lines to standard error. The other commands only tell what went wrong.
fn start_log(config: &Config, serving: bool) {
    let targets: Targets = config.log.parse().expect("`config` has checked it");
    // These two write whole frames at their lowest levels, passwords and tokens in them.
    let targets =
        targets.with_target("tungstenite", tracing::Level::INFO).with_target("tokio_tungstenite", tracing::Level::INFO);
    let targets = if serving { targets } else { Targets::new().with_default(tracing::Level::ERROR) };
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    match config.log_format {
        LogFormat::Text => tracing_subscriber::registry().with(lines.with_filter(targets)).init(),
        LogFormat::Json => tracing_subscriber::registry().with(lines.json().with_filter(targets)).init(),
    }
}

async fn serve(config: Config) -> ExitCode {
    let (mut terminate, mut interrupt) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(error), _) | (_, Err(error)) => return fail(error),
    };
    let server = match Server::start(config, Clock::default()).await {
        Ok(server) => server,
        Err(error) => return fail(error),
    };
    let address = server.address();
    println!("Doorward {} listens on http://{address} (WebSocket: ws://{address}/rpc).", env!("CARGO_PKG_VERSION"));
    println!("Users are kept in {}.", server.data_dir().display());
    let program = std::env::current_exe().map_or_else(|_| "doorward".to_owned(), |path| path.display().to_string());
    println!("Make the first admin from another terminal, in this folder: {program} admin create NAME --email ADDRESS");
    println!("Ctrl-C stops it.");
    either(&mut terminate, &mut interrupt).await;
    tracing::info!("stopping; a second signal stops at once");
    tokio::select! {
        () = server.stop() => ExitCode::SUCCESS,
        () = either(&mut terminate, &mut interrupt) => fail("stopped at once by a second signal"),
    }
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
