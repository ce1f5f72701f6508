//! Level two of the simulations: real nodes in namespaces. `netns --help` says what it can do.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use atoll_netns::{host, linkd};
use clap::Parser;

/// Runs real nodes in network namespaces, over links that can be made bad.
#[derive(Parser)]
#[command(
    after_help = "Exit codes: 0 all held, 1 something broke, 2 usage, 8 something that this \
                        needs is not here (said on stderr)."
)]
enum Arguments {
    /// Joins namespaces by links; prints a line when ready, ends when stdin is closed.
    Linkd {
        /// Namespaces.
        #[arg(long, default_value_t = 2)]
        hosts: usize,
        /// Seed of what the links do.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Their names, before a number each.
        #[arg(long, default_value = "atoll-h")]
        name: String,
        /// Socket for JSON lines, such as {"op":"set","from":0,"to":1,"link":{"delay_us":5000}}.
        #[arg(long)]
        control: PathBuf,
    },
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let missing = host::missing();
    if !missing.is_empty() {
        for what in missing {
            writeln!(std::io::stderr(), "MISSING {what}")?;
        }
        return Ok(ExitCode::from(host::EXIT_MISSING));
    }
    match arguments {
        Arguments::Linkd { hosts, seed, name, control } => {
            let options = linkd::Options { name, hosts, seed, socket: control };
            linkd::run(&options, std::io::stdout())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
