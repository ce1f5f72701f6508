//! Reads little-endian values from bytes, checking every length before it is used.

use crate::error::ModelError;

/// A position in bytes. Every read names what it reads, for the error if the bytes end early.
#[derive(Debug, Clone)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Offset of the next byte from the start.
    pub(crate) const fn position(&self) -> usize {
        self.at
    }

    /// Bytes that are left.
    pub(crate) const fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Takes the next `len` bytes.
    pub(crate) fn take(&mut self, len: u64, what: &str) -> Result<&'a [u8], ModelError> {
        let truncated = || ModelError::Truncated {
            what: what.to_owned(),
            offset: self.at as u64,
            need: len,
            have: self.remaining() as u64,
        };
        let len = usize::try_from(len).map_err(|_| truncated())?;
        let rest = self.bytes.get(self.at..).expect("the position never passes the end");
        let taken = rest.get(..len).ok_or_else(truncated)?;
        self.at += len;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], ModelError> {
        let taken = self.take(N as u64, what)?;
        Ok(taken.try_into().expect("take returned N bytes"))
    }

    pub(crate) fn u32(&mut self, what: &str) -> Result<u32, ModelError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, what: &str) -> Result<u64, ModelError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// Takes a string of at most `limit` bytes, whose length stands before it as a u64.
    pub(crate) fn string(&mut self, what: &str, limit: u64) -> Result<&'a str, ModelError> {
        let len = self.u64(what)?;
        ModelError::check_limit(&format!("length of the {what}"), len, limit)?;
        let offset = self.at;
        std::str::from_utf8(self.take(len, what)?)
            .map_err(|_| ModelError::malformed(format!("{what} at byte {offset}"), "not UTF-8"))
    }
}
