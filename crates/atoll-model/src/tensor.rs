//! Where tensors come from: a GGUF file, a safetensors folder, or shard blobs.

use std::ops::Range;

use atoll_kernels::BlockType;

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::gguf::GgufFile;
use crate::manifest::ShardSet;
use crate::mapped::FileBytes;
use crate::safetensors::SafetensorsFolder;

/// Name, block type and shape of a stored tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name in GGUF's naming: `token_embd.weight`, `blk.3.attn_q.weight`, `output_norm.weight`.
    pub name: String,
    /// How its numbers are stored.
    pub dtype: BlockType,
    /// Rows: output features of a matrix, 1 for a vector.
    pub rows: usize,
    /// Columns: input features of a matrix, the length of a vector.
    pub cols: usize,
}

impl TensorInfo {
    /// Stored size in bytes: rows × the bytes of one row.
    ///
    /// # Errors
    /// [`ModelError::Malformed`] if the columns are not whole blocks or the size overflows.
    pub fn bytes_len(&self) -> Result<usize, ModelError> {
        if self.cols == 0 || self.rows == 0 {
            return Err(ModelError::malformed(format!("tensor {}", self.name), "it is empty"));
        }
        if !self.cols.is_multiple_of(self.dtype.block_len()) {
            let why = format!(
                "{} columns are not a multiple of the block of {}, {}",
                self.cols,
                self.dtype.name(),
                self.dtype.block_len()
            );
            return Err(ModelError::malformed(format!("tensor {}", self.name), why));
        }
        (self.cols / self.dtype.block_len())
            .checked_mul(self.dtype.block_bytes())
            .and_then(|row| row.checked_mul(self.rows))
            .ok_or_else(|| {
                ModelError::malformed(format!("tensor {}", self.name), "its size overflows")
            })
    }
}

/// A stored tensor: what it is, and its bytes (rows one after the other, each in whole blocks).
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a> {
    /// What the bytes are.
    pub info: &'a TensorInfo,
    /// `info.bytes_len()` bytes; not aligned for their element type.
    pub bytes: &'a [u8],
}

impl Tensor<'_> {
    /// The numbers of the tensor, whatever its type, (rows * cols), row-major.
    #[must_use]
    pub fn dequantize(self) -> Vec<f32> {
        let mut values = vec![0.0; self.info.rows * self.info.cols];
        atoll_kernels::dequantize(self.info.dtype, self.bytes, &mut values);
        values
    }

    /// The numbers of row `row`, (cols).
    ///
    /// # Errors
    /// [`ModelError::InvalidInput`] if there is no such row.
    pub fn row(self, row: usize) -> Result<Vec<f32>, ModelError> {
        let size = self.info.bytes_len()? / self.info.rows;
        let Some(bytes) = self.bytes.chunks_exact(size).nth(row) else {
            let why = format!("{row} of {}", self.info.rows);
            return Err(ModelError::InvalidInput { what: "row of a tensor", why });
        };
        let mut values = vec![0.0; self.info.cols];
        atoll_kernels::dequantize(self.info.dtype, bytes, &mut values);
        Ok(values)
    }

    /// The numbers of a tensor that is stored as floats, (rows * cols), row-major.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] if it is quantized.
    pub fn to_floats(self) -> Result<Vec<f32>, ModelError> {
        let halves = || self.bytes.as_chunks().0.iter();
        match self.info.dtype {
            BlockType::F32 => Ok(self
                .bytes
                .as_chunks()
                .0
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect()),
            BlockType::F16 => {
                Ok(halves().map(|bytes| half::f16::from_le_bytes(*bytes).to_f32()).collect())
            }
            BlockType::BF16 => {
                Ok(halves().map(|bytes| half::bf16::from_le_bytes(*bytes).to_f32()).collect())
            }
            BlockType::Q4_0
            | BlockType::Q4_1
            | BlockType::Q5_0
            | BlockType::Q5_1
            | BlockType::Q8_0
            | BlockType::Q2K
            | BlockType::Q3K
            | BlockType::Q4K
            | BlockType::Q5K
            | BlockType::Q6K
            | BlockType::IQ4NL
            | BlockType::IQ4XS
            | BlockType::E3
            | BlockType::E4
            | BlockType::E5
            | BlockType::E6 => Err(ModelError::Unsupported {
                what: "block type",
                name: format!(
                    "{} of {}, which must be floats",
                    self.info.dtype.name(),
                    self.info.name
                ),
            }),
        }
    }
}

/// A stored tensor with the file that holds it, which stays mapped as long as this is kept.
#[derive(Debug, Clone)]
pub struct StoredTensor {
    info: TensorInfo,
    bytes: FileBytes,
    range: Range<usize>,
}

impl StoredTensor {
    /// What the bytes are.
    #[must_use]
    pub const fn info(&self) -> &TensorInfo {
        &self.info
    }

    /// The tensor.
    #[must_use]
    pub fn tensor(&self) -> Tensor<'_> {
        Tensor { info: &self.info, bytes: &self.bytes[self.range.clone()] }
    }

    /// Writes row `row` to `out`, (cols), with the bits of [`atoll_kernels::dequantize`].
    ///
    /// # Panics
    /// If there is no such row or `out` has another length.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        let size = self.range.len() / self.info.rows;
        let bytes = &self.bytes[self.range.clone()][row * size..][..size];
        atoll_kernels::dequantize(self.info.dtype, bytes, out);
    }

    /// Takes the memory of `range` of the tensor's bytes from this process: whoever has read them
    /// and keeps them in another form needs them no more. They may be read again all the same.
    ///
    /// # Panics
    /// If the tensor has not that many bytes.
    pub fn forget(&self, range: Range<usize>) {
        assert!(range.end <= self.range.len(), "{range:?} of {} bytes", self.range.len());
        self.bytes.forget(self.range.start + range.start..self.range.start + range.end);
    }
}

/// A model's tensors under GGUF's names, whatever they are stored in.
#[derive(Debug)]
pub enum TensorSource {
    /// A GGUF file.
    Gguf(GgufFile),
    /// A folder of safetensors.
    Safetensors(SafetensorsFolder),
    /// Blobs of some or all parts.
    Shards(ShardSet),
}

impl TensorSource {
    /// Configuration of the whole model.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        match self {
            Self::Gguf(file) => file.config(),
            Self::Safetensors(folder) => folder.config(),
            Self::Shards(shards) => shards.config(),
        }
    }

    /// The tensor called `name`, if this source holds it.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        match self {
            Self::Gguf(file) => file.tensor(name),
            Self::Safetensors(folder) => folder.tensor(name),
            Self::Shards(shards) => shards.tensor(name),
        }
    }

    /// The tensor called `name`, to be kept longer than this source.
    #[must_use]
    pub fn stored(&self, name: &str) -> Option<StoredTensor> {
        let (info, bytes, range) = match self {
            Self::Gguf(file) => file.place(name),
            Self::Safetensors(folder) => folder.place(name),
            Self::Shards(shards) => shards.place(name),
        }?;
        Some(StoredTensor { info: info.clone(), bytes: bytes.clone(), range })
    }

    /// Every tensor that the model's configuration asks for and this source holds.
    #[must_use]
    pub fn infos(&self) -> Vec<&TensorInfo> {
        let specs = self.config().all_tensors();
        specs.filter_map(|spec| Some(self.tensor(&spec.name)?.info)).collect()
    }

    /// Bytes of these tensors as they are stored.
    ///
    /// # Errors
    /// [`ModelError::Malformed`] for a tensor whose rows are no whole blocks.
    pub fn stored_bytes(&self) -> Result<u64, ModelError> {
        self.infos().iter().map(|info| Ok(info.bytes_len()? as u64)).sum()
    }

    /// The tensor called `name`.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`] if this source does not hold it.
    pub fn require(&self, name: &str) -> Result<Tensor<'_>, ModelError> {
        self.tensor(name).ok_or_else(|| ModelError::MissingTensor { name: name.to_owned() })
    }

    /// The tensor called `name`, which must have the given shape.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`] or [`ModelError::WrongShape`].
    pub fn require_shape(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<Tensor<'_>, ModelError> {
        let tensor = self.require(name)?;
        let found = (tensor.info.rows, tensor.info.cols);
        if found != (rows, cols) {
            let name = name.to_owned();
            return Err(ModelError::WrongShape { name, expected: (rows, cols), found });
        }
        Ok(tensor)
    }
}

/// Checks that ranges of bytes, each with a name, do not overlap; sorts them by start.
pub(crate) fn check_disjoint(ranges: &mut [(Range<usize>, String)]) -> Result<(), ModelError> {
    ranges.sort_by_key(|(range, _)| (range.start, range.end));
    for pair in ranges.windows(2) {
        let [(before, name_before), (after, name_after)] = pair else { continue };
        if after.start < before.end {
            let why = format!("its bytes overlap those of {name_before}");
            return Err(ModelError::malformed(format!("tensor {name_after}"), why));
        }
    }
    Ok(())
}
