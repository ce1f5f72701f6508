//! A store that no running node holds.

use std::path::Path;

use super::ShardStore;
use crate::data_dir::DataDir;
use crate::error::NodeError;

/// The store of a data directory whose node does not run; none can start while this lives.
#[derive(Debug)]
pub struct IdleStore {
    store: ShardStore,
    _dir: DataDir,
}

impl IdleStore {
    /// Opens the store in `data_dir`, if a node has ever made one there.
    ///
    /// # Errors
    /// [`NodeError::DataDirInUse`] while a node runs there, and what [`ShardStore::open`] says.
    pub fn open(data_dir: &Path) -> Result<Option<Self>, NodeError> {
        if !data_dir.join("blobs").is_dir() {
            return Ok(None);
        }
        let dir = DataDir::open(data_dir)?;
        Ok(Some(Self { store: ShardStore::open(data_dir)?, _dir: dir }))
    }

    /// What it holds.
    #[must_use]
    pub const fn store(&self) -> &ShardStore {
        &self.store
    }
}
