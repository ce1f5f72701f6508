//! Progress on stderr: a bar on a terminal, a plain line now and then elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output;

/// Nothing is shown for work that ends sooner.
const SHOWN_AFTER: Duration = Duration::from_secs(1);
/// Plain lines come at most this often.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Bytes, shown with their rate.
    Bytes,
    /// Whatever the message names.
    Items,
}

/// One piece of work that may take long.
#[derive(Debug)]
pub(crate) struct Task {
    what: String,
    unit: Unit,
    done: u64,
    total: Option<u64>,
    clock: Instant,
    bar: Option<ProgressBar>,
    line_at: Option<Instant>,
}

impl Task {
    /// Begins `what`, of `total` units if that is known.
    pub(crate) fn new(what: impl Into<String>, unit: Unit, total: Option<u64>) -> Self {
        Self {
            what: what.into(),
            unit,
            done: 0,
            total,
            clock: Instant::now(),
            bar: None,
            line_at: None,
        }
    }

    /// Goes on to another piece of the same work.
    pub(crate) fn rename(&mut self, what: &str) {
        self.what = what.to_owned();
        if let Some(bar) = &self.bar {
            bar.set_message(self.what.clone());
        }
    }

    /// Sets the total once it is known.
    pub(crate) fn set_total(&mut self, total: Option<u64>) {
        self.total = total;
    }

    /// Reports that `done` units stand now.
    pub(crate) fn at(&mut self, done: u64) {
        self.done = done;
        if self.clock.elapsed() < SHOWN_AFTER {
            return;
        }
        if output::stderr_is_terminal() {
            self.draw();
        } else if self.line_at.is_none_or(|at| at.elapsed() >= LINE_EVERY) {
            self.line_at = Some(Instant::now());
            output::note(&self.line());
        }
    }

    /// Ends the work and removes the bar.
    pub(crate) fn finish(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn draw(&mut self) {
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(self.total, ProgressDrawTarget::stderr());
            bar.set_style(style(self.unit, self.total.is_some()));
            bar.set_message(self.what.clone());
            bar.reset_eta();
            bar
        });
        if let Some(total) = self.total {
            bar.set_length(total);
        }
        bar.set_position(self.done);
    }

    fn line(&self) -> String {
        let seconds = self.clock.elapsed().as_secs();
        let done = self.amount(self.done);
        match self.total {
            Some(total) => {
                let percent = self.done.saturating_mul(100) / total.max(1);
                format!(
                    "{}: {done} of {} ({percent} %), {seconds} s",
                    self.what,
                    self.amount(total)
                )
            }
            None => format!("{}: {done}, {seconds} s", self.what),
        }
    }

    fn amount(&self, units: u64) -> String {
        match self.unit {
            Unit::Bytes => output::bytes_text(units),
            Unit::Items => units.to_string(),
        }
    }
}

fn style(unit: Unit, total: bool) -> ProgressStyle {
    let template = match (unit, total) {
        (Unit::Bytes, true) => {
            "{msg} [{bar:24}] {decimal_bytes}/{decimal_total_bytes} \
             {decimal_bytes_per_sec} {eta}"
        }
        (Unit::Bytes, false) => "{spinner} {msg} {decimal_bytes} {decimal_bytes_per_sec}",
        (Unit::Items, true) => "{msg} [{bar:24}] {pos}/{len} {eta}",
        (Unit::Items, false) => "{spinner} {msg} {elapsed}",
    };
    ProgressStyle::with_template(template).expect("the templates above are well formed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_name_amount_total_and_percent() {
        let mut task = Task::new("pulling x", Unit::Bytes, Some(2_000_000));
        task.done = 500_000;
        assert_eq!(task.line(), "pulling x: 500.0 kB of 2.0 MB (25 %), 0 s");
        task.set_total(None);
        assert_eq!(task.line(), "pulling x: 500.0 kB, 0 s");
    }
}
