//! What the program says on its standard output and its standard error: a place that takes nothing is no reason to panic.

use std::fmt::Display;
use std::io::{self, Write};

/// Says a line on standard output.
pub fn say(line: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Tells a line on standard error. Where that cannot be written, there is nobody to tell.
pub fn tell(line: impl Display) {
    let line = format!("doorward: {line}\n");
    let _ = io::stderr().write_all(line.as_bytes());
}

/// Why a line was not said, for people.
pub fn not_written(error: io::Error) -> String {
    format!("standard output cannot be written: {error}")
}
