//! The load generator: it starts a gateway and bare reference loops, puts the same load on both in turn, and prints
//! what a call costs, how long it takes and which gates are met. `README.md` says what each row measures.
//!
//! It refuses to count an answer it has not compared byte for byte, and it never talks to a server it did not start.
#![expect(clippy::print_stdout, reason = "the table is the product of this program")]

mod client;
mod compare;
mod cpu;
mod gateway;
mod http;
mod load;
mod placement;
mod process;
mod reference;
mod rows;
mod table;
mod wire;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What can go wrong in a bench: anything, and all of it ends the row with one sentence.
pub type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

#[derive(Parser)]
#[command(about = "Measures a gateway against bare reference loops")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure the rows and print the table.
    Table(table::Options),
    /// Measure two gateways in turn and print what differs.
    Compare(compare::Options),
    /// Reference: answer every WebSocket text with the same bytes.
    Echo(ReferenceArguments),
    /// Reference: write the same bytes to every WebSocket when asked to.
    Spread(ReferenceArguments),
    /// Reference: answer every HTTP request with the same bytes.
    Respond(ReferenceArguments),
}

#[derive(clap::Args)]
struct ReferenceArguments {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// The reply of the gateway, as JSON: text and headers.
    #[arg(long)]
    reply: PathBuf,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Table(options) => table::run(options),
        Command::Compare(options) => compare::run(options),
        Command::Echo(arguments) => reference::echo(arguments.listen, &arguments.reply),
        Command::Spread(arguments) => reference::spread(arguments.listen, &arguments.reply),
        Command::Respond(arguments) => reference::respond(arguments.listen, &arguments.reply),
    };
    done.unwrap_or_else(|failure| {
        eprintln!("doorward-bench: {failure}");
        ExitCode::FAILURE
    })
}
