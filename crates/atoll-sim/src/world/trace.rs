//! What of an output goes into the trace, and what of an error into the report.

use atoll_proto::{Event, Output, RequestError};

use super::index;
use crate::chaos::SHORT_US;
use crate::hash_model::mix;

/// Tells outputs of different kinds, targets or content apart, for the trace.
pub(super) fn fingerprint(output: &Output) -> u64 {
    match output {
        Output::Send { to, message } => {
            let kind = message.kind().bytes().fold(0, |sum, byte| sum * 31 + u64::from(byte));
            mix(&[1, index(*to) as u64, kind])
        }
        Output::Dial { peer } => mix(&[2, index(*peer) as u64]),
        Output::Disconnect { peer, .. } => mix(&[3, index(*peer) as u64]),
        Output::Prepare { plan_epoch, .. } => mix(&[4, plan_epoch.0.into()]),
        Output::Unload { .. } => 5,
        Output::Keep { .. } => 11,
        Output::Compute(job) => mix(&[6, job.id.0, job.from_pos.into(), job.epoch.0.into()]),
        Output::Release { .. } => 7,
        Output::Emit(Event::Token { request, index, token, .. }) => {
            mix(&[8, request.0, (*index).into(), (*token).into()])
        }
        Output::Emit(_) => 9,
    }
}

/// An error's kind and, where it has one, its cause without figures. `patience_us`: the request's
/// time; an impatient client's is told apart.
pub(super) fn cause_of(error: &RequestError, patience_us: u64) -> String {
    if matches!(error, RequestError::DeadlineExceeded { .. }) {
        let impatient = patience_us < SHORT_US.end;
        let text = if impatient { "its client waited 1.5 s at most" } else { "deadline" };
        return text.to_owned();
    }
    without_figures(&error.to_string())
}

pub(super) fn without_figures(text: &str) -> String {
    let plain = text.split(' ').filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
    plain.collect::<Vec<_>>().join(" ")
}
