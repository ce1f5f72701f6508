//! What a stage sent for a session, kept within bounds so that it can be sent again.

use std::collections::VecDeque;

use crate::message::Message;

/// Entries kept per session, whatever their size: above the jobs that can be in flight.
const ENTRIES_MAX: usize = 64;
/// What an entry costs beside its activation, bytes.
const ENTRY_BYTES: usize = 256;

/// Inputs taken in and, once computed, the outputs that they gave, in order of position.
#[derive(Debug, Default)]
pub(crate) struct OutputLog {
    entries: VecDeque<Entry>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    from_pos: u32,
    rows: u32,
    /// Of the input, to tell a repeated frame from a different one.
    digest: [u8; 32],
    output: Option<Message>,
}

/// What the log knows of a frame that came again.
#[derive(Debug, PartialEq)]
pub(crate) enum Seen {
    /// Taken in; its output will follow.
    Computing,
    /// Taken in and answered: this is the answer.
    Answered(Box<Message>),
    /// Another frame took these positions.
    Differs,
    /// Too long ago to tell.
    Forgotten,
}

impl OutputLog {
    pub(crate) fn append(&mut self, from_pos: u32, rows: u32, digest: [u8; 32]) {
        self.entries.push_back(Entry { from_pos, rows, digest, output: None });
        self.bytes += ENTRY_BYTES;
    }

    /// Keeps the output of the input that began at `from_pos`, and forgets the oldest entries
    /// beyond `bytes_max`, never the newest.
    pub(crate) fn complete(&mut self, from_pos: u32, output: Message, bytes_max: usize) {
        let entry = self.entries.iter_mut().rev().find(|entry| entry.from_pos == from_pos);
        if let Some(entry) = entry {
            self.bytes += output_bytes(&output);
            entry.output = Some(output);
        }
        while self.entries.len() > 1 && (self.bytes > bytes_max || self.entries.len() > ENTRIES_MAX)
        {
            let entry = self.entries.pop_front().expect("there are at least two");
            let output = entry.output.as_ref().map_or(0, output_bytes);
            self.bytes = self.bytes.saturating_sub(ENTRY_BYTES + output);
        }
    }

    pub(crate) fn seen(&self, from_pos: u32, rows: u32, digest: &[u8; 32]) -> Seen {
        let end = from_pos.saturating_add(rows);
        let overlaps =
            |entry: &&Entry| entry.from_pos < end && from_pos < entry.from_pos + entry.rows;
        match self.entries.iter().rev().find(overlaps) {
            None => Seen::Forgotten,
            Some(entry)
                if (entry.from_pos, entry.rows, &entry.digest) != (from_pos, rows, digest) =>
            {
                Seen::Differs
            }
            Some(Entry { output: None, .. }) => Seen::Computing,
            Some(Entry { output: Some(output), .. }) => Seen::Answered(Box::new(output.clone())),
        }
    }

    /// The outputs from `len` on, or `None` if the log does not reach back so far.
    pub(crate) fn since(&self, len: u32) -> Option<impl Iterator<Item = &Message>> {
        let start = self.entries.iter().position(|entry| entry.from_pos == len)?;
        Some(self.entries.iter().skip(start).map_while(|entry| entry.output.as_ref()))
    }

    /// The newest output.
    pub(crate) fn last(&self) -> Option<&Message> {
        self.entries.iter().rev().find_map(|entry| entry.output.as_ref())
    }
}

const fn output_bytes(output: &Message) -> usize {
    if let Message::Frame(frame) = output { frame.activation.data.len() } else { 0 }
}
