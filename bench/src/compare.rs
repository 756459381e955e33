//! The command `compare`: two gateways, measured in turn in one run, row by row.
//!
//! Figures of different runs differ by what else the machine did. Here both gateways have each turn within a minute of each
//! other, and the ratio is taken turn by turn: what disturbs the machine for longer disturbs both.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::Result;
use crate::rows::{self, Plan, median};
use crate::table::{self, Figure, MISSED, Outcome};

/// A median ratio nearer to 1 than this is noise in any case.
const NOISE: f64 = 0.03;

/// What to compare with, and how often.
#[derive(clap::Args)]
pub struct Options {
    /// The other gateway, e.g. of the last release.
    #[arg(long, value_name = "PATH")]
    other: PathBuf,
    /// How often both are measured, in turn.
    #[arg(long, default_value_t = 5)]
    turns: usize,
    #[command(flatten)]
    table: table::Options,
}

/// One figure of both gateways.
struct Compared {
    row: u8,
    what: String,
    unit: &'static str,
    /// A turn each: this one's and the other's.
    turns: Vec<(f64, f64)>,
}

/// Measures and prints. With `--strict`, fails where this gateway is slower in every turn.
pub fn run(options: Options) -> Result<ExitCode> {
    let Options { other, turns, mut table } = options;
    let (strict, wanted) = (table.strict, table.rows.clone());
    // A turn is short, so that the two are measured close to each other.
    table.rounds = table.rounds.or(Some(1));
    let this = table::plan(&table)?;
    table.gateway = Some(other);
    let other = table::plan(&table)?;
    table::until_interrupted(async {
        let (mut slower, mut failed) = (false, false);
        for row in wanted {
            eprintln!("row {row}: {}", rows::subject(row));
            match compare(row, turns.max(1), &this, &other).await {
                Ok(figures) => {
                    figures.iter().for_each(|figure| println!("{}", figure.line()));
                    slower |= figures.iter().any(|figure| figure.verdict() == "SLOWER");
                }
                Err(failure) => {
                    println!("row {row} was not measured: {failure}");
                    failed = true;
                }
            }
        }
        match (failed, slower) {
            (true, _) => ExitCode::FAILURE,
            (false, true) if strict => ExitCode::from(MISSED),
            (false, _) => ExitCode::SUCCESS,
        }
    })
}

async fn compare(row: u8, turns: usize, this: &Plan, other: &Plan) -> Result<Vec<Compared>> {
    let mut figures: Vec<Compared> = Vec::new();
    for turn in 0..turns {
        // Who comes second may find the machine warmer: they change places.
        let (ours, theirs) = if turn % 2 == 0 {
            let ours = rows::measure(row, this).await?;
            (ours, rows::measure(row, other).await?)
        } else {
            let theirs = rows::measure(row, other).await?;
            (rows::measure(row, this).await?, theirs)
        };
        for Outcome { row, what, ours, .. } in ours {
            // Of old and new, each tells what the row tells by now.
            let Some(theirs) = theirs.iter().find(|theirs| theirs.what == what) else { continue };
            let pair = (ours.value, theirs.ours.value);
            match figures.iter_mut().find(|figure| figure.what == what) {
                Some(figure) => figure.turns.push(pair),
                None => figures.push(Compared { row, what, unit: ours.unit, turns: vec![pair] }),
            }
        }
    }
    Ok(figures)
}

impl Compared {
    /// How much more this one takes than the other, a turn each: above 1 is worse, also for what should be much.
    fn ratios(&self) -> Vec<f64> {
        let more_is_better = self.unit == "logins/s";
        self.turns.iter().map(|(ours, theirs)| if more_is_better { theirs / ours } else { ours / theirs }).collect()
    }

    /// Slower or faster only where every turn says so: what turns disagree about is noise.
    fn verdict(&self) -> &'static str {
        let ratios = self.ratios();
        match median(ratios.iter().copied()) {
            middle if middle > 1.0 + NOISE && ratios.iter().all(|ratio| *ratio > 1.0) => "SLOWER",
            middle if middle < 1.0 - NOISE && ratios.iter().all(|ratio| *ratio < 1.0) => "faster",
            _ => "same",
        }
    }

    fn line(&self) -> String {
        let ratios = self.ratios();
        let figure = |value| Figure { value, unit: self.unit };
        let ours = figure(median(self.turns.iter().map(|(ours, _)| *ours)));
        let theirs = figure(median(self.turns.iter().map(|(_, theirs)| *theirs)));
        let (least, most) =
            (ratios.iter().copied().fold(f64::NAN, f64::min), ratios.iter().copied().fold(f64::NAN, f64::max));
        format!(
            "{:>3}  {:<60}  this {ours}  other {theirs}  ratio {:.2} ({least:.2}–{most:.2})  {}",
            self.row,
            self.what,
            median(ratios),
            self.verdict()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::Compared;

    #[test]
    fn only_what_every_turn_says_is_no_noise() {
        let of = |unit, turns: &[(f64, f64)]| {
            Compared { row: 1, what: String::new(), unit, turns: turns.to_vec() }.verdict()
        };
        assert_eq!(of("µs", &[(12.0, 10.0), (11.0, 10.0), (13.0, 10.0)]), "SLOWER");
        assert_eq!(of("µs", &[(12.0, 10.0), (9.9, 10.0), (13.0, 10.0)]), "same");
        assert_eq!(of("µs", &[(10.2, 10.0), (10.1, 10.0), (10.2, 10.0)]), "same");
        assert_eq!(of("µs", &[(8.0, 10.0), (9.0, 10.0), (7.0, 10.0)]), "faster");
        assert_eq!(of("logins/s", &[(8.0, 10.0), (9.0, 10.0), (7.0, 10.0)]), "SLOWER");
    }
}
