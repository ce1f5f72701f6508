//! The program `atoll`: words in, words out, exit codes, model sources. Everything else is in the
//! libraries behind it.

mod answer;
mod api_file;
mod args;
mod children;
mod commands;
mod config_file;
mod events;
mod exit;
mod interrupt;
mod local;
mod mesh;
mod output;
mod progress;
mod prompt;
mod settings;
mod source;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::args::{Cli, Command};
use crate::exit::{Exit, Failure};
use crate::interrupt::Stop;
use crate::settings::Settings;

fn main() -> ExitCode {
    atoll_model::heap::give_back_freed_memory();
    let cli = Cli::parse();
    let json = cli.global.json;
    match begin(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::note(&failure.to_string());
            if json && !failure.is_told {
                let _printed = output::json(&failure.to_json());
            }
            ExitCode::from(failure.exit.code())
        }
    }
}

fn begin(cli: Cli) -> Result<(), Failure> {
    let settings = Settings::resolve(&cli.global)?;
    start_log(&settings, cli.command.as_ref())?;
    match cli.command {
        Some(command) => run(&settings, command),
        None => quick_start(),
    }
}

/// Runs a command on a runtime of its own.
fn run(settings: &Settings, command: Command) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime
        .map_err(|error| Failure::new(Exit::Failure, "cannot start threads").because(error))?;
    let done = runtime.block_on(async {
        let stop = Stop::listen()?;
        commands::dispatch(settings, command, &stop).await
    });
    // Threads that were told to end may do so, and end what they began (a pip). One that still
    // reads stdin is left behind.
    let grace = if done.is_ok() { Duration::ZERO } else { Duration::from_millis(300) };
    runtime.shutdown_timeout(grace);
    done
}

/// What a newcomer sees who types nothing else.
fn quick_start() -> Result<(), Failure> {
    output::line_out(
        "atoll demo                  three nodes on this machine answer together\n\
         atoll run smollm2:135m Hi   one answer\n\
         atoll --help                everything else",
    )
}

fn start_log(settings: &Settings, command: Option<&Command>) -> Result<(), Failure> {
    use tracing_subscriber::EnvFilter;

    let usual = match command {
        // What befalls simulated nodes is no warning.
        Some(Command::Sim(_)) => "error",
        // Kademlia warns whenever nobody is there yet; being alone has its own message.
        Some(_) | None => "warn,libp2p_kad=error",
    };
    let text = settings.log.as_deref().unwrap_or(usual);
    let filter = EnvFilter::try_new(text).map_err(|error| {
        Failure::usage(format!("cannot read the log filter {text:?}")).because(error)
    })?;
    let colours = output::stderr_is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours);
    log.with_writer(std::io::stderr).init();
    Ok(())
}
