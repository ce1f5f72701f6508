//! Shard blobs: the tensors of one part of a model, as they lie on disk and travel between nodes.
//!
//! A blob is little-endian: version, kind and number of tensors (32 bits each), then for each
//! tensor the length of its name and the name, ggml's type id (32 bits), rows, columns and offset
//! (64 bits each), then the tensors in that order, each beginning at the next multiple of 64 with
//! zeros before it. Everything but the tensors' bytes follows from their names, types and shapes,
//! so a reader accepts exactly one layout.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use atoll_kernels::BlockType;
use serde::{Deserialize, Serialize};

use crate::config::TensorSpec;
use crate::error::ModelError;
use crate::gguf::cursor::Cursor;
use crate::mapped::FileBytes;
use crate::tensor::{Tensor, TensorInfo};

/// Version of the layout.
const VERSION: u32 = 1;
/// What every tensor's offset is a multiple of.
const ALIGNMENT: usize = 64;
/// Tensors of one part; a layer has 14 at most.
const TENSORS_MAX: u64 = 64;
const NAME_BYTES_MAX: u64 = 128;
/// Rows and columns, each; the vocabulary and width of a configuration are smaller.
const SIDE_MAX: u64 = 1 << 22;

/// What a blob holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlobKind {
    /// The embedding.
    Embed,
    /// One layer, by its place.
    Layer(usize),
    /// The final norm, and the head's matrix unless it is the embedding's.
    Head,
    /// The tokenizer.
    Tokenizer,
}

impl BlobKind {
    /// Number in a blob's header. A tokenizer's blob has no such header.
    const fn id(self) -> u32 {
        match self {
            Self::Embed => 0,
            Self::Layer(_) => 1,
            Self::Head => 2,
            Self::Tokenizer => 3,
        }
    }
}

/// BLAKE3 of a blob; hexadecimal in JSON and in messages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct BlobHash(pub [u8; 32]);

impl BlobHash {
    /// Hash of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Checks that `bytes` have this hash.
    ///
    /// # Errors
    /// [`ModelError::WrongHash`] with both hashes.
    pub fn verify(self, what: &str, bytes: &[u8]) -> Result<(), ModelError> {
        let found = Self::of(bytes);
        if found == self {
            return Ok(());
        }
        Err(ModelError::WrongHash {
            what: what.to_owned(),
            expected: self.to_string(),
            found: found.to_string(),
        })
    }
}

impl fmt::Display for BlobHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BlobHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<BlobHash> for String {
    fn from(hash: BlobHash) -> Self {
        hash.to_string()
    }
}

impl TryFrom<String> for BlobHash {
    type Error = ModelError;

    fn try_from(text: String) -> Result<Self, ModelError> {
        let hash = blake3::Hash::from_hex(&text)
            .map_err(|_| ModelError::malformed("hash", format!("{text:?} is no BLAKE3 hash")))?;
        let hash = Self(*hash.as_bytes());
        if hash.to_string() != text {
            return Err(ModelError::malformed("hash", "its letters are not small"));
        }
        Ok(hash)
    }
}

/// Joins the tensors of one part to a blob.
///
/// # Panics
/// If a tensor's bytes are not as many as its shape and block type need.
pub(crate) fn encode(kind: BlobKind, tensors: &[Tensor<'_>]) -> Vec<u8> {
    let infos: Vec<&TensorInfo> = tensors.iter().map(|tensor| tensor.info).collect();
    let layout = layout(&infos).expect("tensors of a source have legal shapes");
    let mut out = Vec::with_capacity(layout.last().map_or(0, |range| range.end));
    out.extend(VERSION.to_le_bytes());
    out.extend(kind.id().to_le_bytes());
    let u32_bytes = |n: usize| u32::try_from(n).expect("a few tensors, short names").to_le_bytes();
    out.extend(u32_bytes(tensors.len()));
    for (info, range) in infos.iter().zip(&layout) {
        out.extend(u32_bytes(info.name.len()));
        out.extend(info.name.as_bytes());
        out.extend(info.dtype.ggml_id().to_le_bytes());
        for number in [info.rows, info.cols, range.start] {
            out.extend((number as u64).to_le_bytes());
        }
    }
    for (tensor, range) in tensors.iter().zip(&layout) {
        out.resize(range.start, 0);
        out.extend(tensor.bytes);
        assert_eq!(out.len(), range.end, "bytes of tensor {}", tensor.info.name);
    }
    out
}

/// Size of the blob that holds tensors of these shapes and block types.
pub(crate) fn bytes_len(specs: &[TensorSpec], dtypes: &[BlockType]) -> Result<u64, ModelError> {
    let infos: Vec<TensorInfo> = specs
        .iter()
        .zip(dtypes)
        .map(|(spec, &dtype)| {
            let (rows, cols) = (spec.rows, spec.cols);
            TensorInfo { name: spec.name.clone(), dtype, rows, cols }
        })
        .collect();
    let layout = layout(&infos.iter().collect::<Vec<_>>())?;
    Ok(layout.last().map_or(0, |range| range.end as u64))
}

/// Where the bytes of each tensor lie.
fn layout(infos: &[&TensorInfo]) -> Result<Vec<Range<usize>>, ModelError> {
    let header = 12 + infos.iter().map(|info| 32 + info.name.len()).sum::<usize>();
    let mut end = header;
    infos
        .iter()
        .map(|info| {
            let overflow = || ModelError::malformed("shard blob", "its size overflows");
            let start = end.checked_next_multiple_of(ALIGNMENT).ok_or_else(overflow)?;
            end = start.checked_add(info.bytes_len()?).ok_or_else(overflow)?;
            Ok(start..end)
        })
        .collect()
}

/// A blob, read: which tensors it holds, and where.
#[derive(Debug)]
pub struct ShardBlob {
    bytes: FileBytes,
    tensors: Vec<TensorInfo>,
    layout: Vec<Range<usize>>,
}

impl ShardBlob {
    /// Maps and reads the blob at `path`, whose hash has been verified.
    ///
    /// # Errors
    /// What [`ShardBlob::parse`] returns, and [`ModelError::Io`].
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        Self::parse(FileBytes::open(path)?)
    }

    /// Reads a blob from its bytes, which may be anything.
    ///
    /// # Errors
    /// [`ModelError`] naming what is truncated, malformed, above a limit or unsupported.
    pub fn parse(bytes: impl Into<FileBytes>) -> Result<Self, ModelError> {
        let bytes = bytes.into();
        let mut cursor = Cursor::new(&bytes);
        let version = cursor.u32("version of the shard blob")?;
        if version != VERSION {
            return Err(ModelError::UnsupportedVersion {
                format: "shard blob",
                version: version.into(),
                supported: "1",
            });
        }
        let kind = cursor.u32("kind of the shard blob")?;
        if kind > BlobKind::Head.id() {
            return Err(ModelError::malformed("shard blob", format!("unknown kind {kind}")));
        }
        let count: u64 = cursor.u32("number of tensors")?.into();
        ModelError::check_limit("number of tensors of a shard blob", count, TENSORS_MAX)?;
        let mut offsets = Vec::new();
        let mut tensors = Vec::new();
        for _ in 0..count {
            let (info, offset) = read_tensor(&mut cursor)?;
            tensors.push(info);
            offsets.push(offset);
        }
        let layout = layout(&tensors.iter().collect::<Vec<_>>())?;
        for ((info, range), offset) in tensors.iter().zip(&layout).zip(offsets) {
            if range.start as u64 != offset {
                let why = format!("it is at {offset}, not at {}", range.start);
                return Err(ModelError::malformed(format!("tensor {}", info.name), why));
            }
        }
        let need = layout.last().map_or(cursor.position(), |range| range.end);
        if bytes.len() < need {
            return Err(ModelError::Truncated {
                what: "shard blob".to_owned(),
                offset: 0,
                need: need as u64,
                have: bytes.len() as u64,
            });
        }
        if bytes.len() > need {
            let why = format!("{} bytes follow its end", bytes.len() - need);
            return Err(ModelError::malformed("shard blob", why));
        }
        Ok(Self { bytes, tensors, layout })
    }

    /// The tensors, in the blob's order.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor at `idx` of [`ShardBlob::tensors`].
    ///
    /// # Panics
    /// If there are not that many.
    #[must_use]
    pub fn tensor(&self, idx: usize) -> Tensor<'_> {
        let (info, bytes, range) = self.place(idx);
        Tensor { info, bytes: &bytes[range] }
    }

    /// The tensor at `idx`, and where its bytes are.
    pub(crate) fn place(&self, idx: usize) -> (&TensorInfo, &FileBytes, Range<usize>) {
        (&self.tensors[idx], &self.bytes, self.layout[idx].clone())
    }
}

fn read_tensor(cursor: &mut Cursor<'_>) -> Result<(TensorInfo, u64), ModelError> {
    let name_len: u64 = cursor.u32("length of a tensor's name")?.into();
    ModelError::check_limit("length of a tensor's name", name_len, NAME_BYTES_MAX)?;
    let name = std::str::from_utf8(cursor.take(name_len, "tensor name")?)
        .map_err(|_| ModelError::malformed("tensor name", "not UTF-8"))?
        .to_owned();
    let type_id = cursor.u32(&name)?;
    let dtype = BlockType::from_ggml(type_id).ok_or_else(|| ModelError::Unsupported {
        what: "block type",
        name: format!("ggml type {type_id} of tensor {name}"),
    })?;
    let mut side = |what: &str| {
        let side = cursor.u64(&name)?;
        ModelError::check_limit(&format!("{what} of tensor {name}"), side, SIDE_MAX)?;
        Ok(usize::try_from(side).expect("22 bits fit a usize"))
    };
    let (rows, cols) = (side("rows")?, side("columns")?);
    let offset = cursor.u64(&name)?;
    Ok((TensorInfo { name, dtype, rows, cols }, offset))
}

#[cfg(test)]
mod tests;
