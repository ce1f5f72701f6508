//! The program `atoll`: words in, words out, exit codes, model sources. Everything else is in the
//! libraries behind it.

mod args;
mod commands;
mod config_file;
mod exit;
mod local;
mod output;
mod progress;
mod prompt;
mod settings;
mod source;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Cli;
use crate::exit::Failure;
use crate::settings::Settings;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.global.json;
    match begin(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::note(&failure.to_string());
            if json {
                let _printed = output::json(&failure.to_json());
            }
            ExitCode::from(failure.exit.code())
        }
    }
}

fn begin(cli: Cli) -> Result<(), Failure> {
    let settings = Settings::resolve(&cli.global)?;
    start_log(&settings)?;
    match &cli.command {
        Some(command) => commands::dispatch(&settings, command),
        None => quick_start(),
    }
}

/// What a newcomer sees who types nothing else.
fn quick_start() -> Result<(), Failure> {
    output::line_out(
        "atoll demo                  three nodes on this machine answer together\n\
         atoll run smollm2:135m Hi   one answer\n\
         atoll --help                everything else",
    )
}

fn start_log(settings: &Settings) -> Result<(), Failure> {
    use tracing_subscriber::EnvFilter;

    let text = settings.log.as_deref().unwrap_or("warn");
    let filter = EnvFilter::try_new(text).map_err(|error| {
        Failure::usage(format!("cannot read the log filter {text:?}")).because(error)
    })?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    Ok(())
}
