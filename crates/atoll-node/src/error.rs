//! What can go wrong in a node.

use std::io;
use std::path::{Path, PathBuf};

use atoll_model::{BlobHash, ModelError};
use atoll_proto::ModelId;
use atoll_proto::io::RequestError;
use atoll_proto::plan::PlanError;

/// Why a node could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// No space is left where the data directory lies.
    #[error("disk full while writing {}", path.display())]
    DiskFull {
        /// The file that did not fit.
        path: PathBuf,
    },
    /// Another live process uses the data directory.
    #[error("data directory {} is in use by another running node", path.display())]
    DataDirInUse {
        /// The directory.
        path: PathBuf,
    },
    /// The identity key on disk is unusable.
    #[error("identity key {} is damaged: {cause}", path.display())]
    IdentityDamaged {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// Another live node has the same key.
    #[error(
        "another live node has this node's identity ({seen}): its data directory or identity key \
         was copied; delete identity.key in one of the two data directories"
    )]
    IdentityInUse {
        /// How it was noticed.
        seen: String,
    },
    /// A listen address could not be used.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// The address.
        address: String,
        /// The system's words.
        cause: String,
    },
    /// Text that should be a multiaddress is none.
    #[error("{address:?} is no multiaddress: {cause}")]
    Address {
        /// The text.
        address: String,
        /// The parser's words.
        cause: String,
    },
    /// The network layer could not start.
    #[error("cannot start the network: {0}")]
    Network(String),
    /// A model file or blob is unusable.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A blob on disk does not have its name's hash.
    #[error("blob {0} in the store is corrupt")]
    CorruptBlob(BlobHash),
    /// A blob is not in the store.
    #[error("blob {0} is not in the store")]
    MissingBlob(BlobHash),
    /// The store has no such model.
    #[error("model {0:?} is not in the store")]
    UnknownModel(String),
    /// A stored manifest is unusable.
    #[error("manifest of model {model} is unusable: {cause}")]
    Manifest {
        /// The model.
        model: ModelId,
        /// What is wrong with it.
        cause: String,
    },
    /// What a part needs could not be fetched from any holder.
    #[error("cannot fetch {what}: {cause}")]
    Fetch {
        /// Blob or manifest.
        what: String,
        /// The last holder's words.
        cause: String,
    },
    /// The model cannot be placed.
    #[error("no plan: {0}")]
    Plan(#[from] PlanError),
    /// The model cannot be placed whole, but with narrower layers.
    #[error("no plan: {error}; with narrower layers, {loss_nats:.4} nats away, there is one")]
    Lighter {
        /// Why not whole.
        error: PlanError,
        /// How far from the model that its file was made of it would be.
        loss_nats: f64,
    },
    /// A request ended early.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The node has shut down.
    #[error("the node has shut down")]
    Stopped,
}

impl NodeError {
    /// Wraps an input/output error; a full disk becomes [`NodeError::DiskFull`].
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let full = matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        );
        if full {
            return Self::DiskFull { path: path.to_owned() };
        }
        Self::Io { action, path: path.to_owned(), source }
    }
}
