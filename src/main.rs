//! The command line: settings in, a running gateway or one clear line out.
#![deny(clippy::print_stdout, clippy::print_stderr, reason = "they panic where nothing can be written: see `output`")]

use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use doorward::clock::Clock;
use doorward::config::Config;
use doorward::log::Log;
use doorward::server::Server;
use doorward::signals::Signals;
use doorward::store::elastic;
use doorward::watch::Credentials;
use doorward::{admin, health, output, watch};
use tokio::runtime::Runtime;

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
    let command = match CommandLine::try_parse() {
        Ok(line) => line.command.unwrap_or(Command::Serve),
        Err(answer) => return explain(&answer),
    };
    let config = match Config::from_env() {
        Ok(config) => config,
        Err(problems) => {
            problems.iter().for_each(output::tell);
            return ExitCode::FAILURE;
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let started = runtime.and_then(|runtime| Ok((runtime, Log::start(&config, matches!(command, Command::Serve))?)));
    let (runtime, log) = match started {
        Ok(started) => started,
        Err(error) => return fail(error),
    };
    let code = run(command, config, &runtime, &log);
    // Whatever still waits for the system, such as a name to be resolved, is not waited for.
    runtime.shutdown_background();
    log.flush();
    code
}

/// Answers `--help` and `--version`, or says what is wrong with the arguments.
fn explain(answer: &clap::Error) -> ExitCode {
    let printed = answer.print().and_then(|()| std::io::stdout().flush());
    match (answer.use_stderr(), printed) {
        (true, _) => ExitCode::from(2),
        (false, Ok(())) => ExitCode::SUCCESS,
        (false, Err(error)) => fail(output::not_written(error)),
    }
}

fn run(command: Command, config: Config, runtime: &Runtime, log: &Log) -> ExitCode {
    match command {
        Command::Serve => match runtime.block_on(serve(config)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                // Behind the log, whose reader may have stalled.
                log.tell(error);
                ExitCode::FAILURE
            }
        },
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
        Command::CheckConfig => {
            config.warnings.iter().for_each(output::tell);
            succeed("The settings are good.")
        }
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

fn succeed(line: impl Display) -> ExitCode {
    match output::say(&line) {
        Ok(()) => ExitCode::SUCCESS,
        // What was done is done.
        Err(error) => {
            let line = line.to_string().replace('\n', "; ");
            fail(format_args!("{}; it was to say: {line}", output::not_written(error)))
        }
    }
}

fn fail(error: impl Display) -> ExitCode {
    output::tell(error);
    ExitCode::FAILURE
}

async fn migrate(config: &Config, rebuild: &[elastic::Rebuild]) -> ExitCode {
    let Some(elastic) = &config.elastic else {
        return succeed("Nothing to do: the embedded store is brought up to date at every start.");
    };
    match elastic::migrate(elastic, rebuild, &output::tell).await {
        Ok(done) => succeed(done.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
        Err(error) => fail(error),
    }
}

async fn serve(config: Config) -> Result<(), String> {
    let mut signals = Signals::catch().map_err(|error| error.to_string())?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let started = tokio::select! {
        started = Server::start(config, Clock::default()) => started,
        // It may wait for its store for long.
        () = signals.next() => return Ok(()),
    };
    let server = started.map_err(|error| error.to_string())?;
    introduce(&server);
    signals.next().await;
    tracing::info!("stopping; a second signal stops at once");
    tokio::select! {
        () = server.stop() => Ok(()),
        () = signals.next() => Err("stopped at once by a second signal".to_owned()),
    }
}

/// Says on standard output where the gateway is. It serves all the same when nobody takes that.
fn introduce(server: &Server) {
    let address = server.address();
    let mut lines = vec![format!(
        "Doorward {} listens on http://{address} (WebSocket: ws://{address}/rpc).",
        env!("CARGO_PKG_VERSION")
    )];
    lines.extend(server.metrics().map(|metrics| format!("Metrics for Prometheus are at http://{metrics}/metrics.")));
    lines.push(format!("Users are kept in {}.", server.home()));
    let program = std::env::current_exe().map_or_else(|_| "doorward".to_owned(), |path| path.display().to_string());
    lines.push(format!(
        "Make the first admin from another terminal, in this folder: {program} admin create NAME --email ADDRESS"
    ));
    lines.push("Ctrl-C stops it.".to_owned());
    // On a thread of its own, which ends with the process: a pipe that nobody reads may hold it up for ever.
    std::thread::spawn(move || {
        if let Err(error) = lines.iter().try_for_each(output::say) {
            tracing::warn!("{}; serving goes on", output::not_written(error));
        }
    });
}
