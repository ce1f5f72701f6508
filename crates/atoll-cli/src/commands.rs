//! One module per command.

mod ls;
mod pull;
mod rm;
mod show;

use crate::args::Command;
use crate::exit::Failure;
use crate::settings::Settings;

/// Runs `command`.
pub(crate) fn dispatch(settings: &Settings, command: &Command) -> Result<(), Failure> {
    match command {
        Command::Pull(args) => pull::run(settings, args),
        Command::Ls(_) => ls::run(settings),
        Command::Show(args) => show::run(settings, args),
        Command::Rm(args) => rm::run(settings, args),
        Command::Demo(_)
        | Command::Run(_)
        | Command::Chat(_)
        | Command::Serve(_)
        | Command::Up(_)
        | Command::Status(_)
        | Command::Eval(_)
        | Command::Bench(_) => {
            Err(Failure::new(crate::exit::Exit::Failure, "this command is not part of this build"))
        }
    }
}
