//! Who this node is: an Ed25519 key on disk, and the two spellings of its public half.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use atoll_proto::NodeId;
use libp2p::PeerId;
use libp2p::identity::{Keypair, ed25519};

use crate::error::NodeError;

/// The key file's name in the data directory: 32 bytes, readable by its owner only.
pub(crate) const KEY_FILE: &str = "identity.key";

/// A protobuf `PublicKey { type: Ed25519, data: 32 bytes }` in an identity multihash
/// (libp2p peer-ids specification) begins so.
const ED25519_PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// Reads the key, or makes one if there is none.
pub(crate) fn load_or_create(data_dir: &Path) -> Result<Keypair, NodeError> {
    let path = data_dir.join(KEY_FILE);
    match fs::read(&path) {
        Ok(mut seed) => {
            restrict(&path)?;
            Keypair::ed25519_from_bytes(&mut seed)
                .map_err(|error| NodeError::IdentityDamaged { path, cause: error.to_string() })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => create(data_dir, &path),
        Err(error) => Err(NodeError::io("read", &path, error)),
    }
}

fn create(data_dir: &Path, path: &Path) -> Result<Keypair, NodeError> {
    let secret = ed25519::Keypair::generate();
    let temporary = data_dir.join(format!("{KEY_FILE}.new"));
    let write = |file: &mut File| -> std::io::Result<()> {
        file.write_all(secret.secret().as_ref())?;
        file.sync_all()
    };
    let mut file =
        private_file(&temporary).map_err(|error| NodeError::io("create", &temporary, error))?;
    write(&mut file).map_err(|error| NodeError::io("write", &temporary, error))?;
    fs::rename(&temporary, path).map_err(|error| NodeError::io("rename", path, error))?;
    Ok(secret.into())
}

fn private_file(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    options.open(path)
}

/// Takes the key away from everyone but its owner, if it was readable by others.
fn restrict(path: &Path) -> Result<(), NodeError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let metadata = fs::metadata(path).map_err(|error| NodeError::io("read", path, error))?;
        if metadata.permissions().mode() & 0o077 != 0 {
            tracing::warn!(path = %path.display(), "identity key was readable by others");
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))
                .map_err(|error| NodeError::io("restrict", path, error))?;
        }
    }
    Ok(())
}

/// The core's name of a libp2p peer, if its key is Ed25519.
pub(crate) fn node_id(peer: &PeerId) -> Option<NodeId> {
    let bytes = peer.to_bytes();
    let key = bytes.strip_prefix(&ED25519_PEER_ID_PREFIX)?;
    Some(NodeId(key.try_into().ok()?))
}

/// libp2p's name of a node: its key behind a fixed prefix. Whether the key is a point on the curve
/// is not looked at, since it takes longer than the rest of a message's way; nobody can answer a
/// handshake for one that is not.
pub(crate) fn peer_id(node: &NodeId) -> Option<PeerId> {
    let mut bytes = [0; ED25519_PEER_ID_PREFIX.len() + size_of::<NodeId>()];
    bytes[..ED25519_PEER_ID_PREFIX.len()].copy_from_slice(&ED25519_PEER_ID_PREFIX);
    bytes[ED25519_PEER_ID_PREFIX.len()..].copy_from_slice(&node.0);
    PeerId::from_bytes(&bytes).ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn key_is_kept_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = load_or_create(dir.path()).unwrap();
        let second = load_or_create(dir.path()).unwrap();
        assert_eq!(first.public(), second.public());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let path = dir.path().join(KEY_FILE);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            load_or_create(dir.path()).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn damaged_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(KEY_FILE), b"short").unwrap();
        let error = load_or_create(dir.path()).unwrap_err();
        assert!(matches!(error, NodeError::IdentityDamaged { .. }), "{error}");
    }

    #[test]
    fn peer_id_and_node_id_are_one_key() {
        for seed in 0..32_u8 {
            let key = Keypair::ed25519_from_bytes([seed; 32]).unwrap();
            let peer = key.public().to_peer_id();
            let node = node_id(&peer).unwrap();
            assert_eq!(peer_id(&node), Some(peer));
        }
    }
}
