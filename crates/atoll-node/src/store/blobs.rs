//! Blobs on disk, named by the BLAKE3 hash of their bytes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use atoll_model::BlobHash;

use crate::error::NodeError;

/// A directory of blobs: `hh/<hash>`, and `hh/<hash>.part` for those still being fetched.
#[derive(Debug)]
pub(crate) struct Blobs {
    root: PathBuf,
    /// Makes temporary names unique within the process (which alone holds the directory).
    serial: AtomicU64,
}

impl Blobs {
    /// Opens the directory, creating it if needed, and clears what a crash left half written.
    pub(crate) fn open(root: PathBuf) -> Result<Self, NodeError> {
        fs::create_dir_all(&root).map_err(|error| NodeError::io("create", &root, error))?;
        let blobs = Self { root, serial: AtomicU64::new(0) };
        blobs.visit(|path, name| {
            if name.contains(".new-") {
                fs::remove_file(path).map_err(|error| NodeError::io("remove", path, error))?;
            }
            Ok(())
        })?;
        Ok(blobs)
    }

    /// Where the blob lies, if it is here.
    pub(crate) fn path(&self, hash: BlobHash) -> PathBuf {
        let name = hash.to_string();
        self.root.join(&name[..2]).join(name)
    }

    fn part_path(&self, hash: BlobHash) -> PathBuf {
        self.path(hash).with_extension("part")
    }

    /// Bytes of a whole blob, if it is here.
    pub(crate) fn len(&self, hash: BlobHash) -> Option<u64> {
        fs::metadata(self.path(hash)).ok().map(|metadata| metadata.len())
    }

    /// Bytes of a blob that are here already, whole or in part.
    pub(crate) fn len_so_far(&self, hash: BlobHash) -> u64 {
        let part = || fs::metadata(self.part_path(hash)).ok().map(|metadata| metadata.len());
        self.len(hash).or_else(part).unwrap_or(0)
    }

    /// Stores bytes under their hash, unless they are here.
    pub(crate) fn put(&self, hash: BlobHash, bytes: &[u8]) -> Result<(), NodeError> {
        if self.len(hash) == Some(bytes.len() as u64) {
            return Ok(());
        }
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let path = self.path(hash);
        let temporary = path.with_extension(format!("new-{serial}"));
        write_atomically(&path, &temporary, bytes)
    }

    /// Reads a whole blob and checks its hash.
    pub(crate) fn read(&self, hash: BlobHash) -> Result<Vec<u8>, NodeError> {
        let path = self.path(hash);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(NodeError::MissingBlob(hash));
            }
            Err(error) => return Err(NodeError::io("read", &path, error)),
        };
        if BlobHash::of(&bytes) != hash {
            return Err(NodeError::CorruptBlob(hash));
        }
        Ok(bytes)
    }

    /// Reads a blob through without keeping it and checks its hash.
    pub(crate) fn verify(&self, hash: BlobHash) -> Result<(), NodeError> {
        let path = self.path(hash);
        let file = File::open(&path).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                return NodeError::MissingBlob(hash);
            }
            NodeError::io("read", &path, error)
        })?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(file).map_err(|error| NodeError::io("read", &path, error))?;
        if *hasher.finalize().as_bytes() != hash.0 {
            return Err(NodeError::CorruptBlob(hash));
        }
        Ok(())
    }

    /// Removes a blob, and what was fetched of it.
    pub(crate) fn remove(&self, hash: BlobHash) -> Result<(), NodeError> {
        for path in [self.path(hash), self.part_path(hash)] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(NodeError::io("remove", &path, error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// All blobs, whole or in part.
    #[cfg(test)]
    fn hashes(&self) -> Result<Vec<BlobHash>, NodeError> {
        let mut hashes = Vec::new();
        self.visit(|_, name| {
            hashes.extend(BlobHash::try_from(name.trim_end_matches(".part").to_owned()));
            Ok(())
        })?;
        hashes.sort_unstable();
        hashes.dedup();
        Ok(hashes)
    }

    fn visit(
        &self,
        mut each: impl FnMut(&Path, &str) -> Result<(), NodeError>,
    ) -> Result<(), NodeError> {
        let list = |path: &Path| -> Result<Vec<fs::DirEntry>, NodeError> {
            fs::read_dir(path)
                .and_then(Iterator::collect)
                .map_err(|error| NodeError::io("list", path, error))
        };
        for folder in list(&self.root)? {
            if !folder.path().is_dir() {
                continue;
            }
            for entry in list(&folder.path())? {
                if let Some(name) = entry.file_name().to_str() {
                    each(&entry.path(), name)?;
                }
            }
        }
        Ok(())
    }

    /// Goes on with a blob that is to be fetched: what a former run left is read and hashed.
    pub(crate) fn resume(&self, hash: BlobHash, total: u64) -> Result<PartialBlob, NodeError> {
        let path = self.part_path(hash);
        create_parent(&path)?;
        let io_error = |action| move |error| NodeError::io(action, &self.part_path(hash), error);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(io_error("open"))?;
        if file.metadata().map_err(io_error("read"))?.len() > total {
            file.set_len(0).map_err(io_error("truncate"))?;
        }
        let mut hasher = blake3::Hasher::new();
        let mut len = 0;
        let mut chunk = vec![0; 1 << 20];
        loop {
            let n = file.read(&mut chunk).map_err(io_error("read"))?;
            if n == 0 {
                break;
            }
            hasher.update(&chunk[..n]);
            len += n as u64;
        }
        Ok(PartialBlob { file, path, target: self.path(hash), hasher, len, total, hash })
    }
}

/// A blob that is being fetched. What has come stays on disk when this is dropped.
#[derive(Debug)]
pub(crate) struct PartialBlob {
    file: File,
    path: PathBuf,
    target: PathBuf,
    hasher: blake3::Hasher,
    len: u64,
    total: u64,
    hash: BlobHash,
}

impl PartialBlob {
    /// Bytes that are here.
    pub(crate) const fn len(&self) -> u64 {
        self.len
    }

    /// Bytes that are still to come.
    pub(crate) const fn missing(&self) -> u64 {
        self.total - self.len
    }

    /// Appends the next bytes, at most [`Self::missing`].
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), NodeError> {
        assert!(bytes.len() as u64 <= self.missing(), "the caller reads no more than is missing");
        self.file.write_all(bytes).map_err(|error| NodeError::io("write", &self.path, error))?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Verifies the whole and gives it its final name; wrong bytes are removed.
    pub(crate) fn finish(self) -> Result<(), NodeError> {
        assert_eq!(self.missing(), 0, "the caller finishes what is whole");
        if *self.hasher.finalize().as_bytes() != self.hash.0 {
            fs::remove_file(&self.path)
                .map_err(|error| NodeError::io("remove", &self.path, error))?;
            return Err(NodeError::CorruptBlob(self.hash));
        }
        self.file.sync_all().map_err(|error| NodeError::io("sync", &self.path, error))?;
        rename(&self.path, &self.target)
    }
}

/// Writes a file so that its final name never shows less than all of it.
pub(crate) fn write_atomically(
    path: &Path,
    temporary: &Path,
    bytes: &[u8],
) -> Result<(), NodeError> {
    create_parent(path)?;
    let write = || -> io::Result<()> {
        let mut file = File::create(temporary)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    if let Err(error) = write() {
        // The cause is what matters; a leftover is cleared at the next start.
        let _ = fs::remove_file(temporary);
        return Err(NodeError::io("write", path, error));
    }
    rename(temporary, path)
}

fn create_parent(path: &Path) -> Result<(), NodeError> {
    let parent = path.parent().expect("every path of a store has a parent");
    fs::create_dir_all(parent).map_err(|error| NodeError::io("create", parent, error))
}

fn rename(from: &Path, to: &Path) -> Result<(), NodeError> {
    fs::rename(from, to).map_err(|error| NodeError::io("rename", to, error))?;
    let parent = to.parent().expect("every path of a store has a parent");
    // Makes the new name survive a power cut.
    let directory = File::open(parent).map_err(|error| NodeError::io("open", parent, error))?;
    directory.sync_all().map_err(|error| NodeError::io("sync", parent, error))
}

#[cfg(test)]
mod tests;
