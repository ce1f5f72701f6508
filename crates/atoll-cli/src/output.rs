//! Writing to stdout (data) and stderr (everything else).

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::exit::{Exit, Failure};

/// Writes one JSON object and a line end to stdout.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let line = serde_json::to_string(value).expect("our own structs serialize");
    line_out(&line)
}

/// Writes `text` and a line end to stdout.
pub(crate) fn line_out(text: &str) -> Result<(), Failure> {
    write_out(&format!("{text}\n"))
}

/// Writes `text` to stdout and flushes, so that a stream is seen as it comes.
pub(crate) fn write_out(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|error| closed_or_failed(&error))
}

/// Writes one line for people to stderr; a closed stderr is no reason to stop.
pub(crate) fn note(text: &str) {
    let mut stderr = io::stderr().lock();
    let _closed = writeln!(stderr, "{text}");
}

/// Asks for a line on stderr.
pub(crate) fn prompt(text: &str) {
    let mut stderr = io::stderr().lock();
    let _closed = write!(stderr, "{text}").and_then(|()| stderr.flush());
}

/// Whether a person sees stderr.
pub(crate) fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// A reader that went away (`| head`) ends the program without a complaint.
fn closed_or_failed(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    Failure::new(Exit::Failure, "cannot write to stdout").because(error)
}

/// `bytes` for people, in SI units: `98.4 MB`.
pub(crate) fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::bytes_text;

    #[test]
    fn bytes_are_shown_in_si_units() {
        let check = |bytes, expected: &str| assert_eq!(bytes_text(bytes), expected);
        check(0, "0 B");
        check(999, "999 B");
        check(1_000, "1.0 kB");
        check(98_362_432, "98.4 MB");
        check(999_999_999, "1.0 GB");
        check(u64::MAX, "18446744.1 TB");
    }
}
