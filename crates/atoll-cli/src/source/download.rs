//! Writing a file so that its final name only ever holds the whole, verified thing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::exit::{Exit, Failure};
use crate::progress::Task;

const BUFFER_BYTES: usize = 256 * 1024;

/// Where a download goes.
#[derive(Debug)]
pub(crate) struct Target {
    /// The final name.
    pub(crate) path: PathBuf,
    /// The name until it is whole.
    pub(crate) partial: PathBuf,
    /// A scratch folder beside it, removed at the end.
    pub(crate) scratch: PathBuf,
}

/// A finished download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    /// Size.
    pub(crate) bytes: u64,
    /// Lower-case hexadecimal.
    pub(crate) sha256: String,
}

impl Target {
    /// `file` in `folder`.
    pub(crate) fn new(folder: &Path, file: &str) -> Self {
        Self {
            path: folder.join(file),
            partial: folder.join(format!("{file}.partial")),
            scratch: folder.join("parts"),
        }
    }

    /// Bytes that an earlier, interrupted download left.
    pub(crate) fn partial_bytes(&self) -> u64 {
        fs::metadata(&self.partial).map_or(0, |meta| meta.len())
    }

    /// Opens the partial file to go on after its first `keep` bytes; hashes what is kept.
    pub(crate) fn writer(&self, keep: u64) -> Result<Writer<'_>, Failure> {
        let fail = |error: io::Error| Failure::io("write", &self.partial, &error);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(keep == 0)
            .open(&self.partial)
            .map_err(fail)?;
        let mut hasher = Sha256::new();
        let kept = io::copy(&mut Read::by_ref(&mut file).take(keep), &mut hasher).map_err(fail)?;
        file.set_len(kept).map_err(fail)?;
        Ok(Writer { target: self, file, hasher, bytes: kept })
    }
}

/// Why bytes could not be appended.
#[derive(Debug)]
pub(crate) enum Broken {
    /// They did not come.
    Source(io::Error),
    /// They could not be written.
    Disk(Failure),
}

/// A download under way.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    target: &'a Target,
    file: File,
    hasher: Sha256,
    bytes: u64,
}

impl Writer<'_> {
    /// Bytes that stand.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends everything that `reader` gives.
    pub(crate) fn append(&mut self, reader: &mut dyn Read, task: &mut Task) -> Result<(), Broken> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let n = match reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Broken::Source(error)),
            };
            let written = self.file.write_all(&buffer[..n]);
            written.map_err(|error| {
                Broken::Disk(Failure::io("write", &self.target.partial, &error))
            })?;
            self.hasher.update(&buffer[..n]);
            self.bytes += n as u64;
            task.at(self.bytes);
        }
    }

    /// Checks size and hash, syncs, and gives the file its final name.
    ///
    /// # Errors
    /// [`Exit::Integrity`] (the partial file is removed), or the disk's.
    pub(crate) fn finish(self, bytes: Option<u64>, sha256: Option<&str>) -> Result<Done, Failure> {
        let found = hex(&self.hasher.finalize());
        if let Some(bytes) = bytes.filter(|bytes| *bytes != self.bytes) {
            return Err(self
                .target
                .reject(&format!("it has {} bytes instead of {bytes}", self.bytes)));
        }
        if let Some(wanted) = sha256.filter(|wanted| *wanted != found) {
            return Err(self.target.reject(&format!("its SHA-256 is {found} instead of {wanted}")));
        }
        let target = self.target;
        self.file.sync_all().map_err(|error| Failure::io("write", &target.partial, &error))?;
        fs::rename(&target.partial, &target.path)
            .map_err(|error| Failure::io("rename", &target.partial, &error))?;
        sync_folder(&target.path)?;
        Ok(Done { bytes: self.bytes, sha256: found })
    }
}

impl Target {
    fn reject(&self, why: &str) -> Failure {
        let _gone = fs::remove_file(&self.partial);
        Failure::new(Exit::Integrity, "the downloaded file is not the right one")
            .because(why)
            .hint("pull it once more; if it stays wrong, its source was changed or damaged")
    }
}

/// Writes a file whole or not at all: what was there stays until all of the new one is on disk.
/// Returns its bytes.
///
/// # Errors
/// What `content` or the disk failed with; nothing of the new file is left then.
pub(crate) fn write_whole(
    path: &Path,
    content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<u64, Failure> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = path.with_file_name(name);
    let whole = || {
        let mut file = BufWriter::with_capacity(BUFFER_BYTES, File::create(&partial)?);
        content(&mut file)?;
        file.flush()?;
        file.get_ref().sync_all()?;
        let bytes = file.get_ref().metadata()?.len();
        fs::rename(&partial, path)?;
        Ok(bytes)
    };
    let bytes = whole().map_err(|error| {
        let _gone = fs::remove_file(&partial);
        Failure::io("write", path, &error)
    })?;
    sync_folder(path)?;
    Ok(bytes)
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

fn sync_folder(path: &Path) -> Result<(), Failure> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| Failure::io("sync", folder, &error))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::progress::Unit;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn write<'a>(target: &'a Target, keep: u64, text: &str) -> Writer<'a> {
        let mut writer = target.writer(keep).unwrap();
        let mut task = Task::new("t", Unit::Bytes, None);
        writer.append(&mut text.as_bytes(), &mut task).unwrap();
        writer
    }

    #[test]
    fn a_resumed_download_is_hashed_whole() {
        let dir = tempfile::tempdir().unwrap();
        let target = Target::new(dir.path(), "f");
        drop(write(&target, 0, "abX"));
        assert_eq!(target.partial_bytes(), 3);
        assert!(!target.path.exists());
        let done = write(&target, 2, "c").finish(Some(3), Some(ABC)).unwrap();
        assert_eq!(done, Done { bytes: 3, sha256: ABC.to_owned() });
        assert_eq!(fs::read(&target.path).unwrap(), b"abc");
        assert!(!target.partial.exists());
    }

    #[test]
    fn a_wrong_hash_or_size_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let target = Target::new(dir.path(), "f");
        let failure = write(&target, 0, "abd").finish(None, Some(ABC)).unwrap_err();
        assert_eq!(failure.exit, Exit::Integrity);
        let failure = write(&target, 0, "abcd").finish(Some(3), None).unwrap_err();
        assert_eq!(failure.exit, Exit::Integrity);
        assert!(!target.path.exists() && !target.partial.exists());
    }

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        assert_eq!(write_whole(&path, |file| file.write_all(b"old")).unwrap(), 3);
        let broken = write_whole(&path, |file| {
            file.write_all(b"ne")?;
            Err(io::Error::other("no more"))
        });
        assert!(broken.unwrap_err().to_string().contains("no more"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing beside it");
    }
}
