//! From a user's model file to blobs, once.

use std::fs;
use std::path::Path;
use std::time::UNIX_EPOCH;

use atoll_model::{BlobHash, ChatTemplate, Manifest, ModelFiles};
use atoll_proto::ModelId;

use super::{ShardStore, all_blobs, model_id, read_if_there, write_atomically};
use crate::error::NodeError;

impl ShardStore {
    /// Cuts a model (a GGUF file, or a folder of safetensors) into blobs, stores them with their
    /// manifest, and names the model. A file that was imported before and has not changed since is
    /// not read again.
    ///
    /// # Errors
    /// [`NodeError::Model`] if the file is no model that this program can run;
    /// [`NodeError::DiskFull`] or [`NodeError::Io`]. Blobs that were stored before stay and are
    /// taken up by the next try.
    pub fn import(
        &self,
        name: &str,
        path: &Path,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<ModelId, NodeError> {
        let mark = mark_of(path)?;
        let known = mark.as_ref().and_then(|mark| self.imported(mark));
        let model = match known {
            Some(model) => model,
            None => self.cut(name, path, progress)?,
        };
        if let Some(mark) = &mark {
            self.remember_import(mark, model)?;
        }
        if self.names().get(name) != Some(&model) {
            self.set_name(name, model)?;
        }
        Ok(model)
    }

    fn cut(
        &self,
        name: &str,
        path: &Path,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<ModelId, NodeError> {
        let ModelFiles { source, tokenizer, template } = ModelFiles::open(path)?;
        let total = source.stored_bytes()?;
        let mut done = 0;
        let mut put = |_, hash, bytes: &[u8]| -> Result<(), NodeError> {
            self.put_blob(hash, bytes)?;
            done += bytes.len() as u64;
            progress(done.min(total), total);
            Ok(())
        };
        let template = template.as_ref().map(ChatTemplate::source);
        let manifest = Manifest::split(name, &source, &tokenizer, template, &mut put)?;
        self.put_manifest(&manifest.to_json())
    }

    /// The model that a file with this mark became, if all of it is still here.
    fn imported(&self, mark: &BlobHash) -> Option<ModelId> {
        let text = fs::read_to_string(self.import_path(mark)).ok()?;
        let model = model_id(text.trim())?;
        let manifest = self.manifest(model).ok()??;
        let whole =
            all_blobs(&manifest).all(|entry| self.blob_len(entry.blob) == Some(entry.bytes));
        whole.then_some(model)
    }

    fn remember_import(&self, mark: &BlobHash, model: ModelId) -> Result<(), NodeError> {
        let path = self.import_path(mark);
        let text = model.to_string();
        if read_if_there(&path)?.is_some_and(|known| known == text.as_bytes()) {
            return Ok(());
        }
        write_atomically(&path, &path.with_extension("new"), text.as_bytes())
    }

    /// Forgets which files became `model`.
    pub(super) fn forget_imports(&self, model: ModelId) -> Result<(), NodeError> {
        let list = fs::read_dir(&self.imports)
            .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
            .map_err(|error| NodeError::io("list", &self.imports, error))?;
        for path in list.into_iter().map(|entry| entry.path()) {
            if read_if_there(&path)?.is_some_and(|id| id == model.to_string().as_bytes()) {
                fs::remove_file(&path).map_err(|error| NodeError::io("remove", &path, error))?;
            }
        }
        Ok(())
    }

    fn import_path(&self, mark: &BlobHash) -> std::path::PathBuf {
        self.imports.join(mark.to_string())
    }
}

/// Tells a file from another, and from itself after a change: path, length and time of change.
fn mark_of(path: &Path) -> Result<Option<BlobHash>, NodeError> {
    let real = fs::canonicalize(path).map_err(|error| NodeError::io("open", path, error))?;
    let metadata = fs::metadata(&real).map_err(|error| NodeError::io("open", path, error))?;
    let changed = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    // A folder changes without its own time changing: it is read again each time.
    let (Some(changed), true) = (changed, metadata.is_file()) else { return Ok(None) };
    let text = format!("{}\n{}\n{}", real.display(), metadata.len(), changed.as_nanos());
    Ok(Some(BlobHash::of(text.as_bytes())))
}
