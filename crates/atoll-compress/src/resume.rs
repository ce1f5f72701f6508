//! What a compression has done so far, on disk, so that one that was interrupted goes on where it
//! was and ends with the same bytes.
//!
//! A folder holds the plan, one file of finished tensors for every layer, and the calibration
//! text's states after the last of them. Each file begins with the hash of what is being done and
//! ends with the hash of itself, and is renamed into place when it is whole; the states come last,
//! so that a layer counts only when they are there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use atoll_model::{BlobHash, BlockType, TensorInfo, TensorSource};
use ndarray::Array2;

use crate::compress::Options;
use crate::error::CompressError;
use crate::out::LayerReport;

/// Changes with what is computed and with the form of the files.
const VERSION: u32 = 7;
const HASH: usize = 32;

/// Where the work so far is kept.
#[derive(Debug)]
pub(crate) struct Resume {
    folder: PathBuf,
    /// Names the model and what is to be made of it.
    work: BlobHash,
}

/// A finished layer.
#[derive(Debug, PartialEq)]
pub(crate) struct Done {
    pub(crate) tensors: Vec<(TensorInfo, Vec<u8>)>,
    pub(crate) zeros: u64,
    pub(crate) report: LayerReport,
}

impl Resume {
    /// In `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// [`CompressError::Work`].
    pub(crate) fn open(
        folder: &Path,
        source: &TensorSource,
        options: &Options,
    ) -> Result<Self, CompressError> {
        fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
        let wanted = Options { resume: None, ..options.clone() };
        let mut all = format!("{VERSION} {wanted:?} {:?}", source.config()).into_bytes();
        for spec in source.config().all_tensors() {
            let tensor = source.require(&spec.name)?;
            all.extend(format!("{:?}", tensor.info).into_bytes());
            all.extend(BlobHash::of(tensor.bytes).0);
        }
        Ok(Self { folder: folder.to_owned(), work: BlobHash::of(&all) })
    }

    /// The layers that are done and the states after them, if there are any.
    pub(crate) fn read(&self) -> Option<(Vec<Done>, Option<Array2<f32>>)> {
        let bytes = self.get("states")?;
        let mut reader = Reader(&bytes);
        let (layers, rows, cols) = (reader.count()?, reader.count()?, reader.count()?);
        let values = reader.0.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value));
        let states = Array2::from_shape_vec((rows, cols), values.collect()).ok()?;
        let done = (0..layers).map(|idx| Done::parse(&self.get(&layer_name(idx))?));
        Some((done.collect::<Option<_>>()?, (rows > 0).then_some(states)))
    }

    /// Notes layer `layer_idx`, which is the next one, and the states after it.
    ///
    /// # Errors
    /// [`CompressError::Work`].
    pub(crate) fn layer(
        &self,
        layer_idx: usize,
        done: &Done,
        states: Option<&Array2<f32>>,
    ) -> Result<(), CompressError> {
        self.put(&layer_name(layer_idx), &done.to_bytes())?;
        let (rows, cols) = states.map_or((0, 0), Array2::dim);
        let mut bytes = Vec::with_capacity(24 + 4 * rows * cols);
        [layer_idx + 1, rows, cols].iter().for_each(|n| bytes.extend((*n as u64).to_le_bytes()));
        states.into_iter().flatten().for_each(|value| bytes.extend(value.to_le_bytes()));
        self.put("states", &bytes)
    }

    /// What was noted under `name` for the same work, if it is whole.
    pub(crate) fn get(&self, name: &str) -> Option<Vec<u8>> {
        let mut bytes = fs::read(self.folder.join(name)).ok()?;
        let end = bytes.len().checked_sub(HASH)?;
        let is_whole = BlobHash::of(&bytes[..end]).0 == bytes[end..];
        if !is_whole || !bytes.starts_with(&self.work.0) || end < HASH {
            return None;
        }
        bytes.truncate(end);
        Some(bytes.split_off(HASH))
    }

    /// Notes `content` under `name`.
    ///
    /// # Errors
    /// [`CompressError::Work`].
    pub(crate) fn put(&self, name: &str, content: &[u8]) -> Result<(), CompressError> {
        let (path, partial) = (self.folder.join(name), self.folder.join("partial"));
        let mut bytes = self.work.0.to_vec();
        bytes.extend(content);
        bytes.extend(BlobHash::of(&bytes).0);
        let written = fs::write(&partial, &bytes).and_then(|()| fs::rename(&partial, &path));
        written.map_err(|error| failed(&path, error))
    }
}

/// Removes what was noted in `folder`, and the folder unless something else is in it.
///
/// # Errors
/// What the system says.
pub fn forget(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if ["states", "plan", "neurons", "own-text", "partial"].contains(&&*name)
            || name.starts_with("layer-")
        {
            fs::remove_file(folder.join(&*name))?;
        }
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        removed => removed,
    }
}

fn layer_name(layer_idx: usize) -> String {
    format!("layer-{layer_idx}")
}

fn failed(path: &Path, source: io::Error) -> CompressError {
    CompressError::Work { path: path.to_owned(), source }
}

impl Done {
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let count = |out: &mut Vec<u8>, n: u64| out.extend(n.to_le_bytes());
        let LayerReport { bytes, bytes_before, neurons, lost_by_pruning } = self.report;
        let lost = lost_by_pruning.unwrap_or(f64::NAN).to_bits();
        for n in [self.zeros, bytes, bytes_before, neurons as u64, lost] {
            count(&mut out, n);
        }
        count(&mut out, self.tensors.len() as u64);
        for (info, bytes) in &self.tensors {
            let id = u64::from(info.dtype.ggml_id());
            let sizes = [info.name.len(), info.rows, info.cols, bytes.len()].map(|n| n as u64);
            sizes.into_iter().chain([id]).for_each(|n| count(&mut out, n));
            out.extend(info.name.as_bytes());
            out.extend(bytes);
        }
        out
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let zeros = reader.number()?;
        let report = LayerReport {
            bytes: reader.number()?,
            bytes_before: reader.number()?,
            neurons: reader.count()?,
            lost_by_pruning: Some(f64::from_bits(reader.number()?)).filter(|lost| !lost.is_nan()),
        };
        let mut tensors = Vec::new();
        for _ in 0..reader.count()? {
            let sizes = [reader.count()?, reader.count()?, reader.count()?, reader.count()?];
            let [name, rows, cols, len] = sizes;
            let dtype = BlockType::from_ggml(u32::try_from(reader.number()?).ok()?)?;
            let name = String::from_utf8(reader.take(name)?.to_vec()).ok()?;
            let info = TensorInfo { name, dtype, rows, cols };
            (info.bytes_len().ok()? == len).then_some(())?;
            tensors.push((info, reader.take(len)?.to_vec()));
        }
        Some(Self { tensors, zeros, report })
    }
}

/// Bytes that are yet to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn count(&mut self) -> Option<usize> {
        self.number().and_then(|n| usize::try_from(n).ok())
    }
}
