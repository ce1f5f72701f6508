//! The bytes of a file, mapped into memory and read-only.

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;
#[cfg(unix)]
use memmap2::UncheckedAdvice;

use crate::error::ModelError;

/// Reading a byte makes the system give this process up to so many bytes around it, too (Linux's
/// `fault_around_bytes`).
const MAPPED_AROUND: usize = 64 << 10;

/// Bytes of a file (memory-mapped) or of memory (tests, blobs just fetched). Clones share them.
///
/// A mapped file must not be truncated while it is in use: Atoll writes model files under a
/// temporary name and renames them, and never shortens one.
#[derive(Debug, Clone)]
pub struct FileBytes(Arc<Inner>);

#[derive(Debug)]
enum Inner {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl FileBytes {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// [`ModelError::Io`] if it cannot be opened, is not a regular file, or cannot be mapped.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let io = |source| ModelError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            let source = std::io::Error::other("not a regular file");
            return Err(io(source));
        }
        if metadata.len() == 0 {
            return Ok(Vec::new().into());
        }
        Ok(Self(Arc::new(Inner::Mapped(map(&file).map_err(io)?))))
    }

    /// Takes the memory of a mapped file's bytes `range` from this process; reading them again
    /// reads the file again. Does nothing for bytes of memory.
    pub(crate) fn forget(&self, range: Range<usize>) {
        if let Inner::Mapped(map) = &*self.0 {
            let start = range.start.saturating_sub(MAPPED_AROUND);
            forget(map, start..map.len().min(range.end.saturating_add(MAPPED_AROUND)));
        }
    }
}

#[expect(unsafe_code, reason = "mapping a file is the one unsafe act of this crate")]
fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the mapping is private to this process and read-only. Model files are immutable by
    // contract (see `FileBytes`): whoever shortens one under us ends this process with SIGBUS,
    // whoever rewrites one changes values that are re-checked against their hash where it counts.
    unsafe { Mmap::map(file) }
}

#[cfg(unix)]
#[expect(unsafe_code, reason = "memmap2 wants a promise about what the pages hold afterwards")]
fn forget(map: &Mmap, range: Range<usize>) {
    // SAFETY: the mapping is of a file and nobody writes to it, so that its pages hold the same
    // bytes again whenever they are read next.
    let outcome =
        unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
    if let Err(error) = outcome {
        tracing::debug!(%error, "the memory of a file's pages is kept");
    }
}

#[cfg(not(unix))]
fn forget(_map: &Mmap, _range: Range<usize>) {}

impl From<Vec<u8>> for FileBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Inner::Owned(bytes)))
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &*self.0 {
            Inner::Mapped(map) => map,
            Inner::Owned(bytes) => bytes,
        }
    }
}
