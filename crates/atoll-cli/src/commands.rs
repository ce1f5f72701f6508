//! One module per command.

mod bench;
mod chat;
mod compress;
mod demo;
mod embed;
mod eval;
mod ls;
mod plan;
mod pull;
mod rm;
mod run;
mod serve;
mod show;
mod sim;
mod status;
mod top;
mod up;

use std::sync::atomic::Ordering;

use crate::args::Command;
use crate::exit::{Exit, Failure};
use crate::interrupt::Stop;
use crate::settings::Settings;

/// Runs `command` until it is done or `stop` is asked for.
pub(crate) async fn dispatch(
    settings: &Settings,
    command: Command,
    stop: &Stop,
) -> Result<(), Failure> {
    match command {
        Command::Demo(args) => demo::run(settings, args, stop).await,
        Command::Run(args) => run::run(settings, args, stop).await,
        Command::Chat(args) => chat::run(settings, args, stop).await,
        Command::Serve(args) => serve::run(settings, args, stop).await,
        Command::Up(args) => up::run(settings, args, stop).await,
        Command::Compress(args) => compress::run(settings, args, stop).await,
        Command::Embed(args) => embed::run(settings, args, stop).await,
        Command::Eval(args) => eval::run(settings, args, stop).await,
        Command::Bench(args) => bench::run(settings, args, stop).await,
        Command::Status(args) => simple(settings, stop, move |on| status::run(on, &args)).await,
        Command::Top(args) => {
            // Not raced: it restores the terminal before it ends.
            let (settings, cancel) = (settings.clone(), stop.flag());
            blocking(move || top::run(&settings, &args, &cancel)).await?;
            if stop.flag().load(Ordering::Relaxed) { Err(stop.asked().await) } else { Ok(()) }
        }
        Command::Sim(args) => simple(settings, stop, |on| sim::run(on, args.command)).await,
        Command::Plan(args) => simple(settings, stop, move |on| plan::run(on, &args)).await,
        Command::Pull(args) => {
            let cancel = stop.flag();
            simple(settings, stop, move |on| pull::run(on, &args, cancel)).await
        }
        Command::Ls(_) => simple(settings, stop, ls::run).await,
        Command::Show(args) => simple(settings, stop, move |on| show::run(on, &args)).await,
        Command::Rm(args) => simple(settings, stop, move |on| rm::run(on, &args)).await,
    }
}

/// A command that only waits for files and answers.
async fn simple(
    settings: &Settings,
    stop: &Stop,
    work: impl FnOnce(&Settings) -> Result<(), Failure> + Send + 'static,
) -> Result<(), Failure> {
    let settings = settings.clone();
    stop.race(blocking(move || work(&settings))).await
}

/// Runs `work` where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => Err(Failure::new(Exit::Failure, "the work was dropped").because(error)),
    }
}
