//! Requests that have not started: they wait for a plan or a place.

use std::collections::VecDeque;

use crate::effects::Effects;
use crate::ids::{ModelId, RequestId, Time};
use crate::io::{Event, FinishReason, Request, RequestError};
use crate::planted::Bug;
use crate::session::active::length;

/// In order of arrival, each with its deadline.
#[derive(Debug, Default)]
pub(crate) struct Queue(VecDeque<(Request, Time)>);

/// What a request is held against before it may wait.
pub(crate) struct Admission<'a> {
    /// Positions that the model's plan has room for; `None`: it is not served.
    pub(crate) context: Option<u32>,
    /// Requests under way.
    pub(crate) active: &'a [&'a Request],
    /// Requests waiting or under way at most.
    pub(crate) requests_max: usize,
}

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Lets a request wait, or says why not.
    pub(crate) fn push(&mut self, fx: &mut Effects, request: Request, admission: &Admission<'_>) {
        let id = request.id;
        match self.accept(&request, admission) {
            Err(error) => fail(fx, id, error),
            Ok(()) if request.max_tokens == 0 => {
                fx.emit(Event::Finished { request: id, reason: FinishReason::Length });
            }
            Ok(()) => {
                let unarmed = fx.planted.has(Bug::NoRequestDeadline);
                let after_us = if unarmed { u64::MAX } else { request.deadline_us };
                let deadline = fx.now.after_us(after_us);
                self.0.push_back((request, deadline));
            }
        }
    }

    fn accept(&self, request: &Request, admission: &Admission<'_>) -> Result<(), RequestError> {
        let context = admission.context.ok_or(RequestError::UnknownModel(request.model))?;
        let same = |other: &Request| other.id == request.id || other.session == request.session;
        let waiting = self.0.iter().map(|(request, _)| request);
        let mut all = waiting.chain(admission.active.iter().copied());
        let prompt = length(&request.prompt);
        if request.prompt.is_empty() {
            Err(RequestError::EmptyPrompt)
        } else if prompt > context {
            Err(RequestError::PromptTooLong { prompt, context })
        } else if all.any(same) {
            Err(RequestError::Duplicate)
        } else if self.0.len() + admission.active.len() >= admission.requests_max {
            let max = u32::try_from(admission.requests_max).unwrap_or(u32::MAX);
            Err(RequestError::TooMany(max))
        } else {
            Ok(())
        }
    }

    /// Asks `fate` of each request in order and keeps those that are to wait on.
    pub(crate) fn sift(&mut self, fx: &mut Effects, mut fate: impl FnMut(&Request) -> Fate) {
        self.0.retain(|(request, _)| match fate(request) {
            Fate::Wait => true,
            Fate::Fail(error) => {
                fail(fx, request.id, error);
                false
            }
        });
    }

    /// Takes the first request of a model out.
    pub(crate) fn pop(&mut self, model: ModelId) -> Option<(Request, Time)> {
        let at = self.0.iter().position(|(request, _)| request.model == model)?;
        self.0.remove(at)
    }

    /// Models that are waited for.
    pub(crate) fn models(&self) -> impl Iterator<Item = ModelId> {
        self.0.iter().map(|(request, _)| request.model)
    }

    pub(crate) fn cancel(&mut self, fx: &mut Effects, id: RequestId) {
        self.sift(fx, |request| {
            if request.id == id { Fate::Fail(RequestError::Cancelled) } else { Fate::Wait }
        });
    }

    /// Ends what has waited too long.
    pub(crate) fn tick(&mut self, fx: &mut Effects) {
        let now = fx.now;
        self.0.retain(|(request, deadline)| {
            let over = *deadline <= now;
            if over {
                let after_us = request.deadline_us;
                fail(fx, request.id, RequestError::DeadlineExceeded { after_us });
            }
            !over
        });
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        self.0.iter().map(|(_, deadline)| *deadline).min()
    }
}

/// What becomes of a waiting request.
pub(crate) enum Fate {
    /// It waits on.
    Wait,
    /// It ends.
    Fail(RequestError),
}

pub(crate) fn fail(fx: &mut Effects, request: RequestId, error: RequestError) {
    fx.emit(Event::Failed { request, error });
}
