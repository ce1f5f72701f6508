//! The data directory: one live process at a time.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use crate::error::NodeError;

/// A data directory that this process holds until it drops it.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    /// Locked; the system frees it when the process ends, however it ends.
    _lock: File,
}

impl DataDir {
    /// Creates the directory if needed and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self, NodeError> {
        fs::create_dir_all(path).map_err(|error| NodeError::io("create", path, error))?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|error| NodeError::io("open", &lock_path, error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(NodeError::DataDirInUse { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => Err(NodeError::io("lock", &lock_path, error)),
        }
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn second_holder_is_refused_until_the_first_goes() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path()).unwrap();
        let error = DataDir::open(dir.path()).unwrap_err();
        assert!(matches!(error, NodeError::DataDirInUse { .. }), "{error}");
        drop(first);
        DataDir::open(dir.path()).unwrap();
    }
}
