//! The bytes of a file, mapped into memory and read-only.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

use crate::error::ModelError;

/// Bytes of a file (memory-mapped) or of memory (tests, blobs just fetched).
///
/// A mapped file must not be truncated while it is in use: Atoll writes model files under a
/// temporary name and renames them, and never shortens one.
#[derive(Debug)]
pub struct FileBytes(Inner);

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
            return Ok(Self(Inner::Owned(Vec::new())));
        }
        Ok(Self(Inner::Mapped(map(&file).map_err(io)?)))
    }
}

#[expect(unsafe_code, reason = "mapping a file is the one unsafe act of this crate")]
fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the mapping is private to this process and read-only. Model files are immutable by
    // contract (see `FileBytes`): whoever shortens one under us ends this process with SIGBUS,
    // whoever rewrites one changes values that are re-checked against their hash where it counts.
    unsafe { Mmap::map(file) }
}

impl From<Vec<u8>> for FileBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Inner::Owned(bytes))
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Inner::Mapped(map) => map,
            Inner::Owned(bytes) => bytes,
        }
    }
}
