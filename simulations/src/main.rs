//! The simulator's program. The simulator is not built yet, and this says so.

use std::process::ExitCode;

fn main() -> ExitCode {
    let cause = "error: the simulator is not built yet\n";
    let written = std::io::Write::write_all(&mut std::io::stderr(), cause.as_bytes());
    if written.is_err() { ExitCode::from(2) } else { ExitCode::FAILURE }
}
