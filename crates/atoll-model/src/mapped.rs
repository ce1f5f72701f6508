//! The bytes of a file, mapped into memory and read-only.

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

#[cfg(target_os = "linux")]
use memmap2::Advice;
#[cfg(unix)]
use memmap2::UncheckedAdvice;
use memmap2::{Mmap, MmapMut};

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

#[expect(unsafe_code, reason = "others can change a mapped file")]
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

/// `bytes` zeros that begin at a page, in large pages where the system has them: a product with one
/// row reads every weight once, and with pages of 4 KiB it waits for their addresses to be looked
/// up. Pages that are never written take no memory.
///
/// # Errors
/// [`ModelError::InvalidInput`] if the system has not that much memory.
pub(crate) fn large_memory(bytes: usize) -> Result<MmapMut, ModelError> {
    let refused = |error: std::io::Error| ModelError::InvalidInput {
        what: "memory",
        why: format!("{bytes} bytes could not be had: {error}"),
    };
    let memory = MmapMut::map_anon(bytes.max(1)).map_err(refused)?;
    #[cfg(target_os = "linux")]
    if let Err(error) = memory.advise(Advice::HugePage) {
        tracing::debug!(%error, "weights lie in small pages");
    }
    Ok(memory)
}

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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// What `/proc/self/smaps` says under `key` of the mapping that holds `address`.
    fn smaps(address: usize, key: &str) -> Option<String> {
        let smaps = std::fs::read_to_string("/proc/self/smaps").ok()?;
        let mut is_here = false;
        for line in smaps.lines() {
            let ends = line.split(' ').next().and_then(|range| range.split_once('-'));
            let end = |text: &str| usize::from_str_radix(text, 16).ok();
            if let Some((start, end)) = ends.and_then(|(a, b)| Some((end(a)?, end(b)?))) {
                is_here = (start..end).contains(&address);
            } else if is_here && let Some(found) = line.strip_prefix(key) {
                return Some(found.trim().to_owned());
            }
        }
        None
    }

    #[test]
    fn forgotten_bytes_take_no_memory_and_can_be_read_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, bytes) = (dir.path().join("file"), vec![7_u8; 4 << 20]);
        std::fs::write(&path, &bytes).expect("written");
        let file = FileBytes::open(&path).expect("mapped");
        let resident = || smaps(file.as_ptr().addr(), "Rss:").expect("it is mapped");
        assert!(file.iter().all(|byte| *byte == 7));
        assert_eq!(resident(), "4096 kB");
        file.forget(0..bytes.len());
        assert_eq!(resident(), "0 kB");
        assert_eq!(file[1 << 20], 7);
    }

    #[test]
    fn large_memory_asks_for_large_pages() {
        if !Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
            return; // a system without them
        }
        let memory = large_memory(8 << 20).expect("memory");
        let flags = smaps(memory.as_ptr().addr(), "VmFlags:").expect("it is mapped");
        assert!(flags.split(' ').any(|flag| flag == "hg"), "{flags}");
        assert!(memory.iter().all(|byte| *byte == 0));
        assert!(large_memory(0).is_ok(), "a part may hold nothing");
    }
}
