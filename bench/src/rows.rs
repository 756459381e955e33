//! The rows of the table, one file each. The numbers are those of the list of gates.

mod across;
mod fan_out;
mod flood;
mod http_call;
mod idle_memory;
mod list_pages;
mod logins;
mod paced;
mod pair;
mod pipelined;
mod ws_call;

use std::path::PathBuf;
use std::time::Duration;

use crate::Result;
use crate::gateway::{Gateway, Settings};
use crate::placement::{Placement, Processors};
use crate::table::{Figure, Outcome};

/// The rows there are.
pub const ALL: [u8; 10] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10];

/// Everything a row needs to know.
pub struct Plan {
    /// The program to measure.
    pub gateway: PathBuf,
    /// The processors to share out.
    pub processors: Processors,
    /// Measurements of each server.
    pub rounds: usize,
    /// Length of one.
    pub duration: Duration,
    /// Sockets of rows 4 and 5.
    pub idle_sockets: usize,
    /// Users of row 9.
    pub users: u64,
    /// Where they are.
    pub seeded: PathBuf,
    /// Which server to keep under load instead of measuring.
    pub pause: Option<Server>,
    /// Whether to leave out what takes long.
    pub quick: bool,
}

impl Plan {
    /// A gateway with a fresh data folder.
    pub async fn start_gateway(&self, settings: Settings<'_>, placement: Placement) -> Result<Gateway> {
        self.processors.place_generator(placement)?;
        Gateway::start(&self.gateway, None, settings, placement, &self.processors).await
    }
}

/// One of the two under load.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Server {
    /// The product.
    Gateway,
    /// The bare loop.
    Reference,
}

/// What a row is about.
pub fn subject(row: u8) -> &'static str {
    match row {
        1 => "CPU of a WebSocket call",
        2 => "latency of 1,000 paced sockets",
        3 => "32 calls pipelined on each of 64 sockets",
        4 => "memory of an idle signed-in socket",
        5 => "one change to many subscribers",
        6 => "CPU of an HTTP call",
        7 => "logins, and other calls meanwhile",
        8 => "one change across gateways, and idle ones",
        9 => "first and last page of users.list",
        10 => "a client that floods and never reads",
        _ => "unknown",
    }
}

/// Measures one row.
pub async fn measure(row: u8, plan: &Plan) -> Result<Vec<Outcome>> {
    match row {
        1 => ws_call::measure(plan).await,
        2 => paced::measure(plan).await,
        3 => pipelined::measure(plan).await,
        4 => idle_memory::measure(plan).await,
        5 => fan_out::measure(plan).await,
        6 => http_call::measure(plan).await,
        7 => logins::measure(plan).await,
        8 => across::measure(plan).await,
        9 => list_pages::measure(plan).await,
        10 => flood::measure(plan).await,
        _ => Err(format!("there is no row {row}; there are {ALL:?}").into()),
    }
}

/// The middle one of some values, or the mean of the middle two.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[odd / 2],
        even => f64::midpoint(values[even / 2 - 1], values[even / 2]),
    }
}

fn micros(value: f64) -> Figure {
    Figure { value, unit: "µs" }
}

fn millis(value: f64) -> Figure {
    Figure { value, unit: "ms" }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert_eq!(median([4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median([5.0, 1.0, 3.0]), 3.0);
    }
}
