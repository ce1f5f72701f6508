//! The pulled files of a data directory: `files/SLUG/FILE` with `files/SLUG/source.json` beside it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::download::{self, Target};
use super::{ModelRef, hub, pip, web};
use crate::exit::{Exit, Failure};
use crate::output;

const RECORD: &str = "source.json";
const SCHEMA: &str = "atoll.file/1";
/// Longest readable part of a folder's name.
const SLUG_CHARS_MAX: usize = 48;

/// A pulled file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pulled {
    /// `atoll.file/1`.
    pub(crate) schema: String,
    /// Where it came from, in its one spelling.
    pub(crate) reference: String,
    /// File name within its folder.
    pub(crate) file: String,
    /// Size.
    pub(crate) bytes: u64,
    /// Lower-case hexadecimal.
    pub(crate) sha256: String,
    /// When it was pulled, seconds since 1970.
    pub(crate) pulled_unix_s: u64,
}

/// The pulled files below one data directory.
#[derive(Clone, Debug)]
pub(crate) struct Library {
    files: PathBuf,
    cancel: Arc<AtomicBool>,
}

impl Library {
    /// The library of `data_dir`; touches nothing yet.
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { files: data_dir.join("files"), cancel: Arc::default() }
    }

    /// The same library, whose pulls end when `cancel` is set.
    #[must_use]
    pub(crate) fn cancelled_by(self, cancel: Arc<AtomicBool>) -> Self {
        Self { cancel, ..self }
    }

    /// The pulled file kept for `canonical`, if its record and its size are right.
    pub(crate) fn find(&self, canonical: &str) -> Result<Option<Pulled>, Failure> {
        Ok(self.read(&self.folder(canonical)))
    }

    /// Everything that was pulled, by reference.
    pub(crate) fn list(&self) -> Result<Vec<Pulled>, Failure> {
        let entries = match fs::read_dir(&self.files) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Failure::io("read", &self.files, &error)),
        };
        let mut pulled: Vec<Pulled> =
            entries.flatten().filter_map(|entry| self.read(&entry.path())).collect();
        pulled.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(pulled)
    }

    /// Where the bytes of `pulled` are.
    pub(crate) fn path_of(&self, pulled: &Pulled) -> PathBuf {
        self.folder(&pulled.reference).join(&pulled.file)
    }

    /// Fetches `reference`, verified, under its final name only when it is whole.
    ///
    /// # Errors
    /// Network, disk, `pip`, or [`Exit::Integrity`] when the hash differs.
    pub(crate) fn pull(
        &self,
        reference: &ModelRef,
        sha256: Option<&str>,
    ) -> Result<Pulled, Failure> {
        let canonical = reference.canonical();
        let folder = self.folder(&canonical);
        fs::create_dir_all(&folder).map_err(|error| Failure::io("create", &folder, &error))?;
        let _lock = lock(&folder)?;
        if let Some(pulled) = self.read(&folder)
            && sha256.is_none_or(|wanted| wanted == pulled.sha256)
        {
            return Ok(pulled);
        }
        let file = file_name(reference);
        let target = Target::new(&folder, &file);
        let done = match reference {
            ModelRef::Path(path) => {
                return Err(Failure::usage(format!("{} is on this disk already", path.display())));
            }
            ModelRef::Hub { owner, repo, file } => hub::fetch(owner, repo, file, &target, sha256)?,
            ModelRef::Url { url, sha256: own } => {
                web::fetch(url, &target, sha256.or(own.as_deref()))?
            }
            ModelRef::Pip(parts) => pip::fetch(parts, &target, None, None, sha256, &self.cancel)?,
            ModelRef::Catalogue(entry) => {
                let parts: Vec<_> = entry.parts.iter().map(pip::part).collect();
                let (download, bytes) = (Some(entry.download_bytes), Some(entry.bytes));
                pip::fetch(&parts, &target, download, bytes, Some(entry.sha256), &self.cancel)?
            }
        };
        let pulled = Pulled {
            schema: SCHEMA.to_owned(),
            reference: canonical,
            file,
            bytes: done.bytes,
            sha256: done.sha256,
            pulled_unix_s: unix_s(),
        };
        let record = serde_json::to_vec_pretty(&pulled).expect("our own structs serialize");
        download::write_whole(&folder.join(RECORD), |file| file.write_all(&record))?;
        Ok(pulled)
    }

    /// Removes the pulled file of `canonical`; returns what was removed.
    ///
    /// # Errors
    /// [`Exit::NotFound`] when there is none.
    pub(crate) fn remove(&self, canonical: &str) -> Result<Pulled, Failure> {
        let folder = self.folder(canonical);
        let pulled = self.read(&folder).ok_or_else(|| self.absent(canonical))?;
        let _lock = lock(&folder)?;
        // The record goes first: without it the rest is only an unfinished pull.
        let record = folder.join(RECORD);
        fs::remove_file(&record).map_err(|error| Failure::io("remove", &record, &error))?;
        fs::remove_dir_all(&folder).map_err(|error| Failure::io("remove", &folder, &error))?;
        Ok(pulled)
    }

    /// The error for a model that was not pulled.
    pub(crate) fn absent(&self, canonical: &str) -> Failure {
        Failure::new(Exit::NotFound, format!("the model {canonical:?} has not been fetched"))
            .because(format!("it is not in {}", self.files.display()))
            .hint(format!("atoll pull {canonical}, or atoll ls for what is there"))
    }

    fn folder(&self, canonical: &str) -> PathBuf {
        self.files.join(slug(canonical))
    }

    fn read(&self, folder: &Path) -> Option<Pulled> {
        let record = fs::read(folder.join(RECORD)).ok()?;
        let pulled: Pulled = serde_json::from_slice(&record).ok()?;
        let plain = Path::new(&pulled.file).file_name() == Some(pulled.file.as_ref());
        let bytes = fs::metadata(folder.join(&pulled.file)).ok()?.len();
        (plain && pulled.schema == SCHEMA && bytes == pulled.bytes).then_some(pulled)
    }
}

/// Waits for another process that pulls the same model.
fn lock(folder: &Path) -> Result<File, Failure> {
    let path = folder.join(".lock");
    let fail = |error: std::io::Error| Failure::io("lock", &path, &error);
    let file = File::create(&path).map_err(fail)?;
    if file.try_lock().is_err() {
        output::note("another atoll is fetching this model; waiting for it");
        file.lock().map_err(fail)?;
    }
    Ok(file)
}

/// A folder name for `canonical`: readable, and no two alike.
fn slug(canonical: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    let readable: String = canonical.chars().map(plain).take(SLUG_CHARS_MAX).collect();
    let readable = readable.trim_matches(['-', '.']);
    let hash = download::hex(&Sha256::digest(canonical.as_bytes()));
    format!("{readable}-{}", &hash[..8])
}

fn file_name(reference: &ModelRef) -> String {
    let last = |text: &str| text.rsplit('/').next().unwrap_or_default().to_owned();
    let name = match reference {
        ModelRef::Path(path) => last(&path.display().to_string()),
        ModelRef::Hub { file, .. } => last(file),
        ModelRef::Url { url, .. } => last(url.split('?').next().unwrap_or_default()),
        ModelRef::Pip(parts) if parts.len() == 1 => last(&parts[0].path),
        ModelRef::Pip(_) | ModelRef::Catalogue(_) => String::new(),
    };
    let usable = name.ends_with(".gguf") && !name.starts_with('.') && name.len() < 200;
    if usable { name } else { "model.gguf".to_owned() }
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn slugs_are_readable_and_distinct() {
        let check = |text: &str, start: &str| assert!(slug(text).starts_with(start), "{text}");
        check("smollm2:135m", "smollm2-135m-");
        check("../../etc", "etc-");
        check("https://h/x y", "https---h-x-y-");
        assert_ne!(slug("a:b"), slug("a/b"));
    }

    #[test]
    fn a_record_counts_only_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let library = Library::new(dir.path());
        assert!(library.list().unwrap().is_empty());
        let folder = library.folder("x:1");
        fs::create_dir_all(&folder).unwrap();
        let pulled = Pulled {
            schema: SCHEMA.into(),
            reference: "x:1".into(),
            file: "model.gguf".into(),
            bytes: 3,
            sha256: String::new(),
            pulled_unix_s: 0,
        };
        fs::write(folder.join(RECORD), serde_json::to_vec(&pulled).unwrap()).unwrap();
        assert!(library.find("x:1").unwrap().is_none());
        fs::write(folder.join("model.gguf"), "ab").unwrap();
        assert!(library.find("x:1").unwrap().is_none(), "half a file");
        fs::write(folder.join("model.gguf"), "abc").unwrap();
        assert_eq!(library.find("x:1").unwrap(), Some(pulled.clone()));
        assert_eq!(library.list().unwrap(), [pulled]);
        library.remove("x:1").unwrap();
        assert!(!folder.exists());
        assert_eq!(library.remove("x:1").unwrap_err().exit, Exit::NotFound);
    }
}
