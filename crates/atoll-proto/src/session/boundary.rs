//! The rows that crossed one boundary between stages, kept so that the stage after it can be
//! rebuilt without asking the stages before.

use std::collections::VecDeque;

use crate::effects::Effects;
use crate::ids::{NodeId, Time};
use crate::io::{Activation, WireType};
use crate::limits::Limits;
use crate::message::{Frame, Message};
use crate::planted::Bug;

/// Output rows of one session at one stage: positions `start..end`, the oldest forgotten first.
#[derive(Debug)]
pub(crate) struct Boundary {
    dtype: WireType,
    cols: u32,
    start: u32,
    end: u32,
    /// `end - start` rows, row-major.
    data: VecDeque<u8>,
}

impl Boundary {
    pub(crate) const fn new() -> Self {
        Self { dtype: WireType::F32, cols: 0, start: 0, end: 0, data: VecDeque::new() }
    }

    /// One past the last position.
    pub(crate) const fn end(&self) -> u32 {
        self.end
    }

    /// Keeps rows that begin at `from_pos`, and forgets older ones beyond `bytes_max`.
    pub(crate) fn append(&mut self, from_pos: u32, rows: &Activation, bytes_max: usize) {
        let alike = (rows.dtype, rows.cols) == (self.dtype, self.cols);
        if from_pos != self.end || !alike {
            self.data.clear();
            (self.dtype, self.cols, self.start) = (rows.dtype, rows.cols, from_pos);
        }
        self.data.extend(&rows.data);
        self.end = from_pos.saturating_add(rows.rows);
        let row_bytes = self.row_bytes();
        let beyond = self.data.len().saturating_sub(bytes_max).div_ceil(row_bytes);
        let older = self.data.len().saturating_sub(rows.data.len()) / row_bytes;
        let forgotten = beyond.min(older);
        self.data.drain(..forgotten * row_bytes);
        self.start = self.start.saturating_add(u32::try_from(forgotten).unwrap_or(u32::MAX));
    }

    /// The rows from `from_pos` on, at most `rows_max` of them, or `None` if they are forgotten.
    pub(crate) fn rows(&self, from_pos: u32, rows_max: u32) -> Option<Activation> {
        if from_pos < self.start || from_pos > self.end {
            return None;
        }
        let rows = (self.end - from_pos).min(rows_max);
        let skip = (from_pos - self.start) as usize * self.row_bytes();
        let len = rows as usize * self.row_bytes();
        let data = self.data.range(skip..skip + len).copied().collect();
        Some(Activation { dtype: self.dtype, rows, cols: self.cols, data })
    }

    const fn row_bytes(&self) -> usize {
        let bytes = self.cols as usize * self.dtype.bytes();
        if bytes == 0 { 1 } else { bytes }
    }
}

/// `rows` without its first `skip`.
pub(crate) fn without_first(rows: Activation, skip: u32) -> Activation {
    let skip = skip.min(rows.rows);
    if skip == 0 {
        return rows;
    }
    let bytes = skip as usize * rows.cols as usize * rows.dtype.bytes();
    let data = rows.data.get(bytes..).unwrap_or(&[]).to_vec();
    Activation { rows: rows.rows - skip, data, ..rows }
}

/// Sends the rows from `len` on to `next`; `None` if they are no longer kept.
pub(crate) fn resend(
    fx: &mut Effects,
    boundary: &Boundary,
    (len, rows_max, frames): (u32, u32, usize),
    next: NodeId,
    frame: impl Fn(u32, Activation) -> Frame,
) -> Option<()> {
    let last = boundary.end().saturating_sub(1);
    let mut from_pos = if fx.planted.has(Bug::NackResendsLast) { last.max(len) } else { len };
    for _ in 0..frames {
        if from_pos >= boundary.end() {
            break;
        }
        let rows = match boundary.rows(from_pos, rows_max) {
            None if fx.planted.has(Bug::ForgottenUnsaid) => return Some(()),
            rows => rows?,
        };
        let to = from_pos + rows.rows;
        let shown = if fx.planted.has(Bug::ReplayShifted) { from_pos + 1 } else { from_pos };
        fx.send(next, Message::Frame(frame(shown, rows)));
        from_pos = to;
    }
    Some(())
}

/// Whether a nack with the same `len` was answered less than the nack interval ago.
pub(crate) fn answered_lately(
    now: Time,
    last: &mut Option<(u32, Time)>,
    limits: &Limits,
    len: u32,
) -> bool {
    if last.is_some_and(|(at, when)| at == len && now.since_us(when) < limits.nack_interval_us) {
        return true;
    }
    *last = Some((len, now));
    false
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use quickcheck::quickcheck;

    use super::*;

    fn rows(values: &[u8]) -> Activation {
        let data = values.iter().flat_map(|&value| [value; 8]).collect();
        let rows = u32::try_from(values.len()).unwrap();
        Activation { dtype: WireType::Digest, rows, cols: 1, data }
    }

    quickcheck! {
        fn what_is_kept_is_what_was_appended(chunks: Vec<Vec<u8>>, kept: u8, from: u8) -> bool {
            let all: Vec<u8> = chunks.concat();
            let mut boundary = Boundary::new();
            let mut pos = 0;
            for chunk in &chunks {
                boundary.append(pos, &rows(chunk), usize::from(kept) * 8);
                pos += u32::try_from(chunk.len()).unwrap();
            }
            let older = all.len() - chunks.last().map_or(0, Vec::len);
            let start = all.len().saturating_sub(kept.into()).min(older);
            let from = usize::from(from);
            let expected = (start..=all.len()).contains(&from).then(|| rows(&all[from..]));
            let empty = expected.as_ref().is_some_and(|rows| rows.rows == 0);
            let found = boundary.rows(u32::try_from(from).unwrap(), u32::MAX);
            empty || found == expected
        }

        fn the_first_rows_go(values: Vec<u8>, skip: u8) -> bool {
            let expected = rows(values.get(usize::from(skip)..).unwrap_or(&[]));
            without_first(rows(&values), skip.into()) == expected
        }
    }
}
