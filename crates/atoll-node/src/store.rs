//! What a node keeps on disk: blobs by hash, manifests by model id, and names for people.
//!
//! Everything is written under a temporary name, synced and renamed, so that a crash or a full
//! disk leaves what was there before. One process holds the data directory (its lock), so files
//! have one writer.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use atoll_model::{BlobEntry, BlobHash, Manifest};
use atoll_proto::ModelId;

use crate::error::NodeError;

mod blobs;
mod idle;
mod import;

pub(crate) use blobs::PartialBlob;
use blobs::{Blobs, write_atomically};
pub use idle::IdleStore;

/// Longest name of a model, in bytes.
pub const NAME_BYTES_MAX: usize = 256;

/// A node's blobs, manifests and names.
#[derive(Debug)]
pub struct ShardStore {
    blobs: Blobs,
    models: PathBuf,
    /// Which files became which models: `imports/<mark>` holds a model's id.
    imports: PathBuf,
    names_path: PathBuf,
    names: Mutex<BTreeMap<String, ModelId>>,
}

impl ShardStore {
    /// Opens the store in a data directory, creating it if needed.
    ///
    /// # Errors
    /// [`NodeError::Io`] if a directory cannot be made or the names cannot be read.
    pub fn open(data_dir: &Path) -> Result<Self, NodeError> {
        let models = data_dir.join("models");
        fs::create_dir_all(&models).map_err(|error| NodeError::io("create", &models, error))?;
        let imports = data_dir.join("imports");
        fs::create_dir_all(&imports).map_err(|error| NodeError::io("create", &imports, error))?;
        let names_path = data_dir.join("names.json");
        let names = match read_if_there(&names_path)? {
            None => BTreeMap::new(),
            Some(bytes) => parse_names(&bytes).map_err(|cause| {
                let source = io::Error::new(io::ErrorKind::InvalidData, cause);
                NodeError::io("read", &names_path, source)
            })?,
        };
        let blobs = Blobs::open(data_dir.join("blobs"))?;
        Ok(Self { blobs, models, imports, names_path, names: Mutex::new(names) })
    }

    /// Where a blob lies if it is here.
    pub(crate) fn blob_path(&self, hash: BlobHash) -> PathBuf {
        self.blobs.path(hash)
    }

    /// Bytes of a blob if it is here, whole.
    #[must_use]
    pub fn blob_len(&self, hash: BlobHash) -> Option<u64> {
        self.blobs.len(hash)
    }

    /// Bytes of a blob that are here, whole or in part.
    pub(crate) fn len_so_far(&self, hash: BlobHash) -> u64 {
        self.blobs.len_so_far(hash)
    }

    /// Stores bytes under `hash`, which is theirs, unless they are here.
    ///
    /// # Errors
    /// [`NodeError::DiskFull`] or [`NodeError::Io`]; nothing is left under the final name.
    pub fn put_blob(&self, hash: BlobHash, bytes: &[u8]) -> Result<(), NodeError> {
        self.blobs.put(hash, bytes)
    }

    /// Reads a blob and checks its hash.
    ///
    /// # Errors
    /// [`NodeError::MissingBlob`], [`NodeError::CorruptBlob`] or [`NodeError::Io`].
    pub fn read_blob(&self, hash: BlobHash) -> Result<Vec<u8>, NodeError> {
        self.blobs.read(hash)
    }

    /// Goes on with a blob that is being fetched.
    pub(crate) fn resume(&self, hash: BlobHash, total: u64) -> Result<PartialBlob, NodeError> {
        self.blobs.resume(hash, total)
    }

    pub(crate) fn manifest_path(&self, model: ModelId) -> PathBuf {
        self.models.join(format!("{model}.json"))
    }

    /// The bytes of a manifest, if it is here.
    pub(crate) fn manifest_bytes(&self, model: ModelId) -> Result<Option<Vec<u8>>, NodeError> {
        read_if_there(&self.manifest_path(model))
    }

    /// A model's manifest, if it is here and has its name's hash.
    ///
    /// # Errors
    /// [`NodeError::Manifest`] if it is damaged, [`NodeError::Io`] if it cannot be read.
    pub fn manifest(&self, model: ModelId) -> Result<Option<Manifest>, NodeError> {
        let Some(bytes) = self.manifest_bytes(model)? else { return Ok(None) };
        let unusable = |cause: String| NodeError::Manifest { model, cause };
        if *blake3::hash(&bytes).as_bytes() != model.0 {
            return Err(unusable("it has another hash".to_owned()));
        }
        Manifest::parse(&bytes).map(Some).map_err(|error| unusable(error.to_string()))
    }

    /// Stores a manifest's canonical bytes; the model is named by their hash.
    pub(crate) fn put_manifest(&self, bytes: &[u8]) -> Result<ModelId, NodeError> {
        let model = ModelId(*blake3::hash(bytes).as_bytes());
        let path = self.manifest_path(model);
        write_atomically(&path, &path.with_extension("new"), bytes)?;
        Ok(model)
    }

    /// Ids of all manifests here.
    ///
    /// # Errors
    /// [`NodeError::Io`].
    pub fn models(&self) -> Result<Vec<ModelId>, NodeError> {
        let list = fs::read_dir(&self.models)
            .and_then(Iterator::collect::<io::Result<Vec<_>>>)
            .map_err(|error| NodeError::io("list", &self.models, error))?;
        let id = |entry: &fs::DirEntry| {
            let name = entry.file_name();
            model_id(name.to_str()?.strip_suffix(".json")?)
        };
        let mut models: Vec<ModelId> = list.iter().filter_map(id).collect();
        models.sort_unstable();
        Ok(models)
    }

    /// Names that people gave, and what they mean.
    #[must_use]
    pub fn names(&self) -> BTreeMap<String, ModelId> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives a model a name; an older meaning of the name is forgotten.
    ///
    /// # Errors
    /// [`NodeError::DiskFull`] or [`NodeError::Io`].
    pub fn set_name(&self, name: &str, model: ModelId) -> Result<(), NodeError> {
        self.change_names(|names| {
            names.insert(name.to_owned(), model);
        })
    }

    fn change_names(
        &self,
        change: impl FnOnce(&mut BTreeMap<String, ModelId>),
    ) -> Result<(), NodeError> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = names.clone();
        change(&mut changed);
        let text: BTreeMap<&str, String> =
            changed.iter().map(|(name, model)| (name.as_str(), model.to_string())).collect();
        let bytes = serde_json::to_vec_pretty(&text).expect("a map of strings is JSON");
        let temporary = self.names_path.with_extension("new");
        write_atomically(&self.names_path, &temporary, &bytes)?;
        *names = changed;
        Ok(())
    }

    /// What a name or a full hexadecimal id means.
    ///
    /// # Errors
    /// [`NodeError::UnknownModel`].
    pub fn resolve(&self, name_or_id: &str) -> Result<ModelId, NodeError> {
        let named = self.names().get(name_or_id).copied();
        let unknown = || NodeError::UnknownModel(name_or_id.to_owned());
        let model = named.or_else(|| model_id(name_or_id)).ok_or_else(unknown)?;
        if self.manifest_path(model).is_file() { Ok(model) } else { Err(unknown()) }
    }

    /// Forgets a model: its names, its manifest and those that have some of its layers narrower,
    /// and the blobs that no other model here has. Returns the bytes that became free.
    ///
    /// # Errors
    /// [`NodeError::Io`].
    pub fn remove(&self, model: ModelId) -> Result<u64, NodeError> {
        self.change_names(|names| names.retain(|_, named| *named != model))?;
        let Some(removed) = self.manifest(model)? else { return Ok(0) };
        self.forget_imports(model)?;
        let path = self.manifest_path(model);
        fs::remove_file(&path).map_err(|error| NodeError::io("remove", &path, error))?;
        let mut kept = BTreeSet::new();
        for other in self.models()? {
            let Some(manifest) = self.manifest(other)? else { continue };
            if manifest.narrowed_from == Some(BlobHash(model.0)) {
                let path = self.manifest_path(other);
                fs::remove_file(&path).map_err(|error| NodeError::io("remove", &path, error))?;
                continue;
            }
            kept.extend(all_blobs(&manifest).map(|entry| entry.blob));
        }
        let mut freed = 0;
        for entry in all_blobs(&removed).filter(|entry| !kept.contains(&entry.blob)) {
            freed += self.len_so_far(entry.blob);
            self.blobs.remove(entry.blob)?;
        }
        Ok(freed)
    }

    /// Reads every blob of a model that is here through, and returns what is wrong with them.
    ///
    /// # Errors
    /// [`NodeError::UnknownModel`], [`NodeError::Manifest`] or [`NodeError::Io`].
    pub fn verify(&self, model: ModelId) -> Result<Vec<NodeError>, NodeError> {
        let manifest =
            self.manifest(model)?.ok_or_else(|| NodeError::UnknownModel(model.to_string()))?;
        let mut faults = Vec::new();
        for entry in all_blobs(&manifest) {
            match self.blobs.verify(entry.blob) {
                Ok(()) => {}
                Err(fault @ (NodeError::CorruptBlob(_) | NodeError::MissingBlob(_))) => {
                    faults.push(fault);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(faults)
    }
}

/// The blobs of a model at all widths.
fn all_blobs(manifest: &Manifest) -> impl Iterator<Item = BlobEntry> + '_ {
    manifest.blobs().map(|(_, entry)| entry).chain(manifest.narrower_blobs())
}

/// A model's id from its hexadecimal digits.
fn model_id(text: &str) -> Option<ModelId> {
    BlobHash::try_from(text.to_owned()).ok().map(|hash| ModelId(hash.0))
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, NodeError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(NodeError::io("read", path, error)),
    }
}

fn parse_names(bytes: &[u8]) -> Result<BTreeMap<String, ModelId>, String> {
    let text: BTreeMap<String, BlobHash> =
        serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    Ok(text.into_iter().map(|(name, hash)| (name, ModelId(hash.0))).collect())
}
