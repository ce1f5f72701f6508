//! `atoll top`: the running node, as it goes.

mod view;

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, KeyCode, KeyModifiers};
use serde_json::Value;

use self::view::View;
use super::status;
use crate::args::TopArgs;
use crate::exit::{Exit, Failure};
use crate::output;
use crate::settings::Settings;

/// How long a key may go unseen.
const KEY_WAIT: Duration = Duration::from_millis(100);

/// Looks again and again until `cancel` is set, a key ends it, or it has looked `--count` times.
///
/// # Errors
/// [`Exit::Unreachable`] if no node answers at first; later that is shown, since nodes come back.
/// With `--json` it ends the command. [`Exit::Usage`] where there is no terminal to draw on.
pub(crate) fn run(settings: &Settings, args: &TopArgs, cancel: &AtomicBool) -> Result<(), Failure> {
    let first = status::ask(settings, args.status.api)?;
    if settings.json {
        return lines(settings, args, first, cancel);
    }
    if !io::stdout().is_terminal() {
        return Err(Failure::usage("top draws on a terminal, and stdout is none")
            .hint("atoll status prints once; atoll top --json prints a line each time"));
    }
    let mut terminal = ratatui::try_init().map_err(|error| cannot_draw(&error))?;
    let done = draw(settings, args, first, cancel, &mut terminal);
    ratatui::restore();
    done
}

fn cannot_draw(error: &io::Error) -> Failure {
    Failure::new(Exit::Failure, "cannot draw on this terminal").because(error)
}

fn lines(
    settings: &Settings,
    args: &TopArgs,
    first: Value,
    cancel: &AtomicBool,
) -> Result<(), Failure> {
    output::json(&first)?;
    let mut looks = 1;
    while args.count.is_none_or(|count| looks < count.get()) && wait(args.every(), cancel) {
        output::json(&status::ask(settings, args.status.api)?)?;
        looks += 1;
    }
    Ok(())
}

/// Whether the time passed without an end.
fn wait(every: Duration, cancel: &AtomicBool) -> bool {
    let end = Instant::now() + every;
    while !cancel.load(Ordering::Relaxed) {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(KEY_WAIT));
    }
    false
}

fn draw(
    settings: &Settings,
    args: &TopArgs,
    first: Value,
    cancel: &AtomicBool,
    terminal: &mut DefaultTerminal,
) -> Result<(), Failure> {
    let mut view = View::default();
    let (mut looked, mut looks) = (Ok(first), 1);
    loop {
        match looked {
            Ok(status) => view.take(status),
            Err(failure) => view.lost(&failure),
        }
        let next = Instant::now() + args.every();
        terminal.draw(|frame| view.draw(frame)).map_err(|error| cannot_draw(&error))?;
        if args.count.is_some_and(|count| looks >= count.get()) {
            return Ok(());
        }
        while Instant::now() < next {
            if cancel.load(Ordering::Relaxed) {
                return Ok(());
            }
            let left = next.saturating_duration_since(Instant::now()).min(KEY_WAIT);
            if !event::poll(left).map_err(|error| cannot_draw(&error))? {
                continue;
            }
            let event = event::read().map_err(|error| cannot_draw(&error))?;
            if event.as_key_press_event().is_some_and(|key| ends(key.code, key.modifiers)) {
                return Ok(());
            }
            if event.is_resize() {
                terminal.draw(|frame| view.draw(frame)).map_err(|error| cannot_draw(&error))?;
            }
        }
        looked = status::ask(settings, args.status.api);
        looks += 1;
    }
}

/// Raw mode takes Ctrl-C for a key.
fn ends(key: KeyCode, with: KeyModifiers) -> bool {
    let is_interrupt = key == KeyCode::Char('c') && with.contains(KeyModifiers::CONTROL);
    key == KeyCode::Char('q') || key == KeyCode::Esc || is_interrupt
}
