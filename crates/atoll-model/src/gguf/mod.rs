//! GGUF, versions 2 and 3, little-endian: read under limits, and written.
//!
//! Source: the GGUF specification in ggml's `docs/gguf.md`.

mod bert;
mod config;
pub(crate) mod cursor;
mod metadata;
mod narrow;
mod value;
mod write;

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use atoll_kernels::BlockType;

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::mapped::FileBytes;
use crate::tensor::{Tensor, TensorInfo, check_disjoint};
pub use bert::encoder_keys;
pub(crate) use config::yarn_attention_factor;
use cursor::Cursor;
pub use metadata::Metadata;
pub use narrow::{STEPS, Step, WIDTHS, WIDTHS_DIVERGENCE, Width};
pub use value::{Value, ValueType};
pub use write::GgufWriter;

/// What a GGUF header may ask for. Larger is refused before anything is allocated.
pub(crate) mod limit {
    /// Bytes of a text value. Chat templates are the longest honest ones, some tens of KiB.
    pub(crate) const STRING_BYTES: u64 = 1 << 20;
    /// Bytes of a key or of a tensor's name.
    pub(crate) const NAME_BYTES: u64 = 256;
    /// Elements of an array. The largest honest ones are merges, some hundreds of thousands.
    pub(crate) const ELEMENTS: u64 = 1 << 24;
    /// Arrays within arrays.
    pub(crate) const NESTING: u64 = 4;
    /// Metadata keys.
    pub(crate) const KEYS: u64 = 1 << 16;
    /// Tensors.
    pub(crate) const TENSORS: u64 = 1 << 14;
    /// Dimensions of a tensor.
    pub(crate) const DIMS: u64 = 4;
    /// `general.alignment`, a power of two.
    pub(crate) const ALIGNMENT: u64 = 1 << 20;
}

const MAGIC: [u8; 4] = *b"GGUF";
const ALIGNMENT_DEFAULT: u64 = 32;

/// A GGUF file: metadata read, tensors located, configuration understood.
#[derive(Debug)]
pub struct GgufFile {
    bytes: FileBytes,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    places: HashMap<String, (usize, Range<usize>)>,
    /// Bytes of tensors of which only some columns are read.
    cut: HashMap<String, FileBytes>,
    config: ModelConfig,
}

impl GgufFile {
    /// Maps and reads the file at `path`.
    ///
    /// # Errors
    /// What [`GgufFile::parse`] returns, and [`ModelError::Io`].
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        Self::parse(FileBytes::open(path)?)
    }

    /// Reads a GGUF file from its bytes.
    ///
    /// # Errors
    /// [`ModelError`] naming what is truncated, malformed, above a limit or unsupported.
    pub fn parse(bytes: impl Into<FileBytes>) -> Result<Self, ModelError> {
        let bytes = bytes.into();
        let mut cursor = Cursor::new(&bytes);
        let (n_tensors, n_keys) = read_preamble(&mut cursor)?;
        let metadata = Metadata::read(&mut cursor, n_keys)?;
        let alignment = metadata.optional_u64("general.alignment")?.unwrap_or(ALIGNMENT_DEFAULT);
        ModelError::check_limit("general.alignment", alignment, limit::ALIGNMENT)?;
        if !alignment.is_power_of_two() {
            let why = format!("{alignment} is not a power of two");
            return Err(ModelError::malformed("general.alignment", why));
        }
        let headers = (0..n_tensors)
            .map(|_| read_tensor_header(&mut cursor))
            .collect::<Result<Vec<_>, _>>()?;
        let (tensors, places) = place(headers, cursor.position() as u64, alignment, bytes.len())?;
        let factors = rope_factors(&bytes, &tensors, &places)?;
        let config = config::read(&metadata, &tensors, factors)?;
        Ok(Self { bytes, metadata, tensors, places, cut: HashMap::new(), config })
    }

    /// Configuration of the model.
    #[must_use]
    pub const fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Every key and value.
    #[must_use]
    pub const fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Every tensor, in the file's order.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor called `name`.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let (info, bytes, range) = self.place(name)?;
        Some(Tensor { info, bytes: &bytes[range] })
    }

    /// The tensor called `name`, and where its bytes are.
    pub(crate) fn place(&self, name: &str) -> Option<(&TensorInfo, &FileBytes, Range<usize>)> {
        let (idx, range) = self.places.get(name)?;
        let bytes = self.cut.get(name).unwrap_or(&self.bytes);
        Some((&self.tensors[*idx], bytes, range.clone()))
    }

    /// Size of the file in bytes.
    #[must_use]
    pub fn bytes_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Reads magic, version, and the numbers of tensors and of keys.
pub(crate) fn read_preamble(cursor: &mut Cursor<'_>) -> Result<(u64, u64), ModelError> {
    let found = cursor.take(cursor.remaining().min(4) as u64, "magic")?;
    if found != MAGIC {
        return Err(ModelError::WrongMagic { format: "GGUF", found: found.to_vec() });
    }
    let version = cursor.u32("version")?;
    if version.swap_bytes() <= 3 {
        let name = format!("byte order: big-endian, version {}", version.swap_bytes());
        return Err(ModelError::Unsupported { what: "GGUF", name });
    }
    if !(2..=3).contains(&version) {
        return Err(ModelError::UnsupportedVersion {
            format: "GGUF",
            version: version.into(),
            supported: "2 and 3",
        });
    }
    let n_tensors = cursor.u64("number of tensors")?;
    ModelError::check_limit("number of tensors", n_tensors, limit::TENSORS)?;
    let n_keys = cursor.u64("number of metadata keys")?;
    ModelError::check_limit("number of metadata keys", n_keys, limit::KEYS)?;
    Ok((n_tensors, n_keys))
}

/// Reads a tensor's name, shape, type and offset from the start of the data.
fn read_tensor_header(cursor: &mut Cursor<'_>) -> Result<(TensorInfo, u64), ModelError> {
    let name = cursor.string("tensor name", limit::NAME_BYTES)?;
    let what = format!("tensor {name}");
    let n_dims = cursor.u32(&what)?;
    ModelError::check_limit(
        &format!("number of dimensions of {what}"),
        n_dims.into(),
        limit::DIMS,
    )?;
    let mut cols = 1;
    let mut rows = 1_usize;
    for idx in 0..n_dims {
        let size = usize::try_from(cursor.u64(&what)?)
            .map_err(|_| ModelError::malformed(&*what, "a dimension overflows"))?;
        if idx == 0 {
            cols = size;
        } else {
            rows = rows
                .checked_mul(size)
                .ok_or_else(|| ModelError::malformed(&*what, "its dimensions overflow"))?;
        }
    }
    let type_id = cursor.u32(&what)?;
    let dtype = BlockType::from_ggml(type_id).ok_or_else(|| ModelError::Unsupported {
        what: "block type",
        name: format!("ggml type {type_id} of {what}"),
    })?;
    let offset = cursor.u64(&what)?;
    Ok((TensorInfo { name: name.to_owned(), dtype, rows, cols }, offset))
}

type Places = HashMap<String, (usize, Range<usize>)>;

/// Finds every tensor's bytes: in range, aligned, apart from each other, no name twice.
fn place(
    headers: Vec<(TensorInfo, u64)>,
    header_end: u64,
    alignment: u64,
    file_len: usize,
) -> Result<(Vec<TensorInfo>, Places), ModelError> {
    let data_start = header_end.next_multiple_of(alignment);
    let mut tensors = Vec::with_capacity(headers.len());
    let mut places = HashMap::with_capacity(headers.len());
    let mut ranges = Vec::with_capacity(headers.len());
    for (idx, (info, offset)) in headers.into_iter().enumerate() {
        let what = format!("tensor {}", info.name);
        let len = info.bytes_len()?;
        if !offset.is_multiple_of(alignment) {
            let why = format!("offset {offset} is not a multiple of {alignment}");
            return Err(ModelError::malformed(what, why));
        }
        let overflow = || ModelError::malformed(format!("tensor {}", info.name), "overflow");
        let start = data_start.checked_add(offset).ok_or_else(overflow)?;
        let end = start.checked_add(len as u64).ok_or_else(overflow)?;
        if end > file_len as u64 {
            let have = (file_len as u64).saturating_sub(start);
            return Err(ModelError::Truncated { what, offset: start, need: len as u64, have });
        }
        let start = usize::try_from(start).map_err(|_| overflow())?;
        let range = start..start + len;
        ranges.push((range.clone(), info.name.clone()));
        if places.insert(info.name.clone(), (idx, range)).is_some() {
            return Err(ModelError::malformed(what, "it is there twice"));
        }
        tensors.push(info);
    }
    check_disjoint(&mut ranges)?;
    Ok((tensors, places))
}

/// The divisors of RoPE's frequencies, if the file stores them.
fn rope_factors(
    bytes: &[u8],
    tensors: &[TensorInfo],
    places: &Places,
) -> Result<Option<Vec<f32>>, ModelError> {
    let Some((idx, range)) = places.get(config::ROPE_FACTORS_TENSOR) else { return Ok(None) };
    let tensor = Tensor { info: &tensors[*idx], bytes: &bytes[range.clone()] };
    tensor.to_floats().map(Some)
}

#[cfg(test)]
mod tests;
