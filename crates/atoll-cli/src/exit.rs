//! How the program ends: exit codes, and errors that say what, why and what to try.

mod compress;
mod model;
mod node;
mod plan;

use std::fmt;
use std::io;
use std::path::Path;

/// Exit codes; scripts rely on these numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Something failed while running.
    Failure = 1,
    /// The command line or the configuration file is wrong.
    Usage = 2,
    /// A model, file or package does not exist.
    NotFound = 3,
    /// No node, or no peer, answered.
    Unreachable = 4,
    /// A peer was refused, or refused us.
    TrustRefused = 5,
    /// No placement of the model is possible.
    NoPlan = 6,
    /// A deadline passed.
    Timeout = 7,
    /// It works, but something needs a look.
    #[expect(dead_code, reason = "the number is taken; no command of today ends so")]
    Degraded = 8,
    /// Bytes are not what they should be.
    Integrity = 9,
    /// The other side speaks another version.
    VersionSkew = 10,
    /// Ended by Ctrl-C.
    Interrupted = 130,
    /// Ended by SIGTERM.
    Terminated = 143,
}

impl Exit {
    /// The number that the shell sees.
    pub(crate) const fn code(self) -> u8 {
        self as u8
    }
}

/// An error as a person reads it: what went wrong, the cause, and what to try.
#[derive(Debug)]
pub(crate) struct Failure {
    /// How the program ends.
    pub(crate) exit: Exit,
    /// What went wrong, one sentence without a full stop.
    pub(crate) what: String,
    /// Why, as far as it is known.
    pub(crate) cause: Option<String>,
    /// What the user can do about it.
    pub(crate) hint: Option<String>,
    /// What was printed as JSON says it already.
    pub(crate) is_told: bool,
}

impl Failure {
    /// An error with nothing but its `what`.
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), cause: None, hint: None, is_told: false }
    }

    /// Adds the cause.
    #[must_use]
    pub(crate) fn because(mut self, cause: impl fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    /// Adds what to try.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What was printed as JSON says that it failed, and how: no second object follows.
    #[must_use]
    pub(crate) const fn told(mut self) -> Self {
        self.is_told = true;
        self
    }

    /// A wrong command line or configuration.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what)
    }

    /// A file operation that failed; tells a full disk and a missing file from the rest.
    pub(crate) fn io(doing: &str, path: &Path, error: &io::Error) -> Self {
        let what = format!("cannot {doing} {}", path.display());
        let kind = error.kind();
        if kind == io::ErrorKind::NotFound {
            return Self::new(Exit::NotFound, what).because(error);
        }
        if matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return Self::new(Exit::Failure, what)
                .because(format!("no space left on the disk ({error})"))
                .hint(
                    "free some space, or choose another disk with --data-dir; \
                     what was downloaded is kept and continued",
                );
        }
        Self::new(Exit::Failure, what).because(error)
    }

    /// The JSON twin of the printed text.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "schema": "atoll.error/1",
            "exit": self.exit.code(),
            "what": self.what,
            "cause": self.cause,
            "try": self.hint,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        if let Some(cause) = &self.cause {
            write!(f, "\ncause: {cause}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\ntry: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_what_cause_and_try() {
        let failure = Failure::new(Exit::NotFound, "no model x").because("it is not there");
        assert_eq!(failure.to_string(), "error: no model x\ncause: it is not there");
        let failure = failure.hint("atoll ls");
        assert!(failure.to_string().ends_with("\ntry: atoll ls"));
        assert_eq!(failure.to_json()["exit"], 3);
    }

    #[test]
    fn a_full_disk_says_so() {
        let error = io::Error::from(io::ErrorKind::StorageFull);
        let failure = Failure::io("write", Path::new("f"), &error);
        assert_eq!(failure.exit, Exit::Failure);
        assert!(failure.to_string().contains("no space left"));
    }
}
