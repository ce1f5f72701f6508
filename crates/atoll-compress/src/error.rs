//! What can go wrong.

use std::path::PathBuf;

use atoll_model::{BlockType, ModelError};

/// An error in what was asked for or in the model.
#[derive(Debug, thiserror::Error)]
pub enum CompressError {
    /// The model cannot be read, or holds what cannot be computed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The calibration text is too short.
    #[error("the calibration text has {tokens} tokens, at least {needed} are needed")]
    TextTooShort {
        /// Tokens that it has.
        tokens: usize,
        /// Tokens that are needed.
        needed: usize,
    },
    /// A block type that is not written.
    #[error("{} is not a type that is written here", .0.name())]
    Type(BlockType),
    /// A share of neurons that cannot be removed.
    #[error("{share} of the neurons cannot be removed; a share is at least 0 and under 1")]
    Share {
        /// What was asked for.
        share: f32,
    },
    /// Groups of weights that cannot be: their length does not divide the columns, or they are no
    /// groups.
    #[error("{kept} of every {of} weights cannot stay in the {cols} columns of {name}")]
    Group {
        /// The matrix.
        name: String,
        /// Weights that stay.
        kept: usize,
        /// Weights of a group.
        of: usize,
        /// Its columns.
        cols: usize,
    },
    /// Weights are to be 0 in a type that has no 0.
    #[error("{} cannot hold a weight of exactly 0", .0.name())]
    NoZero(BlockType),
    /// Two wishes that exclude each other.
    #[error("{0} cannot be had together with {1}")]
    Together(&'static str, &'static str),
    /// A width at which a layer cannot run.
    #[error("{share} of {neurons} neurons is no width, or not narrower than the one before it")]
    Width {
        /// What was asked for.
        share: f32,
        /// Neurons that stay.
        neurons: usize,
    },
    /// What has been done so far cannot be kept.
    #[error("cannot write {path}: {source}")]
    Work {
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A method that needs a calibration text, and there is none.
    #[error("{0} needs a calibration text")]
    NeedsText(&'static str),
    /// Fewer bytes than the smallest result has.
    #[error("{bytes} bytes are too few; the least possible is {least}")]
    Budget {
        /// What was asked for.
        bytes: u64,
        /// Bytes of the smallest file.
        least: u64,
    },
    /// A matrix that no type fits.
    #[error("{name} has {cols} columns, and no type that is written has blocks that divide them")]
    Columns {
        /// The matrix.
        name: String,
        /// Its columns.
        cols: usize,
    },
    /// A metadata key whose value was not kept when the model was read.
    #[error("the metadata key {0} is of a kind that is not written")]
    Key(String),
    /// A matrix of inputs from which nothing can be solved, even damped.
    #[error("the inputs of {0} cannot be inverted: they hold numbers that are not finite")]
    Inputs(String),
}
