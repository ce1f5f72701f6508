//! A model's formats, tokenizer, templates, weights, KV cache and the forward pass of a layer
//! range.
//!
//! This crate reads what strangers made: every length in a file is checked against the bytes that
//! are there and against a named limit before anything is allocated. It never opens a socket,
//! never spawns a task, and never guesses: what it does not support is an error that names it.
//!
//! Read [`ModelConfig`] and [`TensorSource`] first.
//!
//! ```
//! use atoll_model::{Architecture, BlockType, GgufFile, tiny};
//!
//! let bytes = tiny::random_model(&tiny::config(Architecture::Llama), BlockType::Q8_0, 1);
//! let file = GgufFile::parse(bytes)?;
//! assert_eq!(file.config().n_layers, 4);
//! # Ok::<(), atoll_model::ModelError>(())
//! ```

#![allow(
    clippy::cast_possible_truncation,
    clippy::excessive_precision,
    reason = "f64 results are rounded once to f32; reference digits are kept whole"
)]

pub mod blob;
pub mod config;
pub mod error;
pub mod files;
pub mod gguf;
pub mod heap;
pub mod manifest;
pub mod mapped;
pub mod safetensors;
pub mod tensor;
pub mod texts;
pub mod tiny;

pub mod sampler;
pub mod stop;
pub mod template;
pub mod tokenizer;

mod attend;
pub mod bench;
pub mod encoder;
mod forward;
pub mod generate;
pub mod kv_cache;
pub mod perplexity;
pub mod pool;
#[cfg(test)]
mod reference;
pub mod rope;
pub mod stage;
mod tiles;
pub mod weights;

pub use ndarray;

pub use atoll_kernels::{
    BlockType, E3_VALUES, E4_VALUES, E5_VALUES, IQ4_VALUES, Isa, RopeStyle, TILE_ROWS,
    byte_of_scale, scale_of_byte,
};
pub use blob::{BlobHash, BlobKind, ShardBlob};
pub use config::{Architecture, EncoderConfig, ModelConfig, RopeConfig, RopeScaling, TensorSpec};
pub use encoder::{Embedded, Encoder};
pub use error::ModelError;
pub use files::ModelFiles;
pub use generate::{FinishReason, GenerateOptions, Generated, Generator, Timings};
pub use gguf::{GgufFile, GgufWriter};
pub use kv_cache::{KvCache, KvType};
pub use manifest::{BlobEntry, Manifest, PartEntry, ShardSet, StepEntry, WidthEntry};
pub use pool::{Compute, Pool};
pub use safetensors::SafetensorsFolder;
pub use sampler::{Sampled, SamplerConfig, sample};
pub use stage::{Sequence, Stage, StageInput};
pub use stop::{Passed, StopMatcher};
pub use template::{ChatMessage, ChatTemplate};
pub use tensor::{StoredTensor, Tensor, TensorInfo, TensorSource};
pub use texts::Texts;
pub use tokenizer::{TokenStream, Tokenizer};
pub use weights::{LoadProgress, Part};
