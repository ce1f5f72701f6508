//! What can be wrong with a model: one enum, each variant carrying the values that name the fault.

use std::path::PathBuf;

/// An error in a model file, in what it asks for, or in how it is used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The operating system refused to open, read or map a file.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// File or directory that was asked for.
        path: PathBuf,
        /// What the operating system answered.
        source: std::io::Error,
    },
    /// The bytes end before something that they announce.
    #[error("truncated: {what} at byte {offset} needs {need} bytes, {have} are left")]
    Truncated {
        /// What was being read.
        what: String,
        /// Where it begins, in bytes from the start of the input.
        offset: u64,
        /// Bytes that it needs.
        need: u64,
        /// Bytes that are left.
        have: u64,
    },
    /// The input does not begin as the named format does.
    #[error("not a {format} file: it begins with {found:02x?}")]
    WrongMagic {
        /// Format that was expected.
        format: &'static str,
        /// The first bytes found.
        found: Vec<u8>,
    },
    /// A version of a format that this program does not read.
    #[error("unsupported {format} version {version} (supported: {supported})")]
    UnsupportedVersion {
        /// Format whose version it is.
        format: &'static str,
        /// Version found.
        version: u64,
        /// Versions that are read.
        supported: &'static str,
    },
    /// A count or a length above what is accepted.
    #[error("{what} is {value}, the limit is {limit}")]
    Limit {
        /// What was counted or measured.
        what: String,
        /// Value found.
        value: u64,
        /// Largest value accepted.
        limit: u64,
    },
    /// Something that is read but contradicts itself or the format.
    #[error("malformed {what}: {why}")]
    Malformed {
        /// What is malformed.
        what: String,
        /// In which way.
        why: String,
    },
    /// A metadata key that the model needs is not there.
    #[error("missing metadata key {key}")]
    MissingKey {
        /// Name of the key.
        key: String,
    },
    /// A tensor that the model needs is not there.
    #[error("missing tensor {name}")]
    MissingTensor {
        /// Name of the tensor, in GGUF's naming.
        name: String,
    },
    /// A tensor does not have the shape that the configuration gives it.
    #[error(
        "tensor {name} has {} rows of {} columns, the configuration says {} rows of {}",
        found.0, found.1, expected.0, expected.1
    )]
    WrongShape {
        /// Name of the tensor.
        name: String,
        /// (rows, cols) by the configuration.
        expected: (usize, usize),
        /// (rows, cols) in the file.
        found: (usize, usize),
    },
    /// A part of the model that this program does not compute, so it must not be ignored.
    #[error("unsupported {what}: {name}")]
    Unsupported {
        /// Kind of thing: "architecture", "block type", "pre-tokenizer", "RoPE scaling" and so on.
        what: &'static str,
        /// Its name as the file gives it.
        name: String,
    },
    /// A model that embeds texts where one is needed that generates them.
    #[error("{architecture} is an encoder: it embeds texts and generates none")]
    Encoder {
        /// Its architecture.
        architecture: &'static str,
    },
    /// A model that generates texts where one is needed that embeds them.
    #[error("{architecture} is no encoder: it generates texts and embeds none")]
    NotEncoder {
        /// Its architecture.
        architecture: &'static str,
    },
    /// The tokenizer refused its vocabulary or a text.
    #[error("tokenizer: {why}")]
    Tokenizer {
        /// What it said.
        why: String,
    },
    /// The chat template is not valid, or failed while rendering.
    #[error("chat template: {why}")]
    Template {
        /// What the template engine said, with its line where known.
        why: String,
    },
    /// Bytes that do not have the hash by which they were asked for.
    #[error("integrity: {what} has hash {found}, expected {expected}")]
    WrongHash {
        /// What was hashed.
        what: String,
        /// Hash that the manifest gives, in hexadecimal.
        expected: String,
        /// Hash of the bytes, in hexadecimal.
        found: String,
    },
    /// The prompt, or the prompt with what is to be generated, does not fit the context.
    #[error("the prompt has {tokens} tokens, the context holds {context}")]
    ContextExceeded {
        /// Tokens asked for.
        tokens: usize,
        /// Tokens that the context holds.
        context: usize,
    },
    /// A value handed in by the caller that has no meaning here.
    #[error("invalid {what}: {why}")]
    InvalidInput {
        /// What was handed in.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl ModelError {
    /// Builds [`ModelError::Malformed`].
    pub(crate) fn malformed(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Malformed { what: what.into(), why: why.into() }
    }

    /// Checks a count against its limit.
    pub(crate) fn check_limit(what: &str, value: u64, limit: u64) -> Result<(), Self> {
        if value > limit {
            return Err(Self::Limit { what: what.to_owned(), value, limit });
        }
        Ok(())
    }
}
