//! Faults planted on purpose, so that the simulator can be shown to see them.
//!
//! Without the feature `planted-bugs` nothing can be planted and every question is `false`.

/// A mistake that somebody could make in this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A stage takes frames of any epoch, from anywhere.
    NoEpochCheck,
    /// A stage appends what it has already.
    NoDedupe,
    /// A stage believes its KV cache one position longer than it is.
    LenOffByOne,
    /// A stage appends all rows of a frame that overlaps its KV cache.
    OverlapKept,
    /// A stage keeps its KV cache when the sequence begins anew.
    StaleCacheKept,
    /// A stage that keeps its KV cache believes it empty.
    ReopenForgetsLength,
    /// A stage takes a frame ahead of its KV cache without a nack.
    NoNack,
    /// A nack is answered with the newest rows only.
    NackResendsLast,
    /// Rows that are sent again say the position after theirs.
    ReplayShifted,
    /// Rows that are no longer kept are left out without a word.
    ForgottenUnsaid,
    /// A stage keeps the sessions of an origin that is gone.
    OriginLossIgnored,
    /// Ending a request tells no stage.
    LostClose,
    /// Cancelling a request does nothing.
    LostCancel,
    /// The origin samples again when a row comes twice.
    DoubleSampling,
    /// A token is emitted and not put in the log.
    TokenUnlogged,
    /// The ring's deadline is never armed.
    NoRingDeadline,
    /// A request's own deadline is never armed.
    NoRequestDeadline,
    /// Losing a node changes no ring.
    LossIgnored,
    /// A request whose stage was lost waits though another is ready.
    ParkedForever,
    /// A sequence that begins anew begins one position late.
    RestartLate,
    /// A sequence that begins anew forgets the newest token of its log.
    RestartForgetsToken,
    /// A ring is opened again under its old epoch.
    EpochNotRaised,
    /// A planned stage is counted ready before it said so.
    ReadyTooEarly,
    /// A spare is counted ready when it is asked.
    SpareUnloaded,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 24] = [
        Self::NoEpochCheck,
        Self::NoDedupe,
        Self::LenOffByOne,
        Self::OverlapKept,
        Self::StaleCacheKept,
        Self::ReopenForgetsLength,
        Self::NoNack,
        Self::NackResendsLast,
        Self::ReplayShifted,
        Self::ForgottenUnsaid,
        Self::OriginLossIgnored,
        Self::LostClose,
        Self::LostCancel,
        Self::DoubleSampling,
        Self::TokenUnlogged,
        Self::NoRingDeadline,
        Self::NoRequestDeadline,
        Self::LossIgnored,
        Self::ParkedForever,
        Self::RestartLate,
        Self::RestartForgetsToken,
        Self::EpochNotRaised,
        Self::ReadyTooEarly,
        Self::SpareUnloaded,
    ];
}

/// At most one planted bug.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planted {
    #[cfg(feature = "planted-bugs")]
    bug: Option<Bug>,
}

impl Planted {
    /// Plants a bug.
    #[cfg(feature = "planted-bugs")]
    #[must_use]
    pub const fn bug(bug: Bug) -> Self {
        Self { bug: Some(bug) }
    }

    /// Whether this bug is planted.
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn has(self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// Whether this bug is planted: never, in this build.
    #[cfg(not(feature = "planted-bugs"))]
    pub(crate) const fn has(self, _bug: Bug) -> bool {
        false
    }
}
