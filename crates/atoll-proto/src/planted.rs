//! Faults planted on purpose, so that the simulator can be shown to see them.
//!
//! Without the feature `planted-bugs` nothing can be planted and every question is `false`.

/// A mistake that somebody could make in this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A stage takes frames of any epoch.
    NoEpochCheck,
    /// A stage appends what it has already.
    NoDedupe,
    /// A stage believes its KV cache one position longer than it is.
    LenOffByOne,
    /// Ending a request tells no stage.
    LostClose,
    /// Cancelling a request does nothing.
    LostCancel,
    /// The origin samples again when a frame comes twice.
    DoubleSampling,
    /// The ring's deadline is never armed.
    NoRingDeadline,
    /// Losing a node ends no request.
    LossIgnored,
    /// A stage takes a frame ahead of its KV cache without a nack.
    NoNack,
    /// A nack is answered with the newest output only.
    NackResendsLast,
    /// A replay in a new epoch starts one position late.
    ReplayLate,
    /// A planned stage is counted ready before it said so.
    ReadyTooEarly,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::NoEpochCheck,
        Self::NoDedupe,
        Self::LenOffByOne,
        Self::LostClose,
        Self::LostCancel,
        Self::DoubleSampling,
        Self::NoRingDeadline,
        Self::LossIgnored,
        Self::NoNack,
        Self::NackResendsLast,
        Self::ReplayLate,
        Self::ReadyTooEarly,
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
