//! Prunes and quantizes a model offline, without gradients, and reports what it cost. Nothing of it
//! is needed to run the result: what it writes is GGUF.
//!
//! A calibration text goes through the model layer by layer in f32. From the inputs of every
//! product, [`Gram`] collects `H = XᵀX / n`; the error of a changed weight is then
//! `tr(ΔW H ΔWᵀ)`, the mean square error of the product. All that follows makes that small:
//! - neurons of the feed-forward block are removed ([`PruneMethod`]), and what remains of the down
//!   projection is repaired by least squares;
//! - every matrix is rounded to a grid whose scales weigh each column by `H`'s diagonal, the error
//!   of each column being carried to the columns after it (GPTQ);
//! - the layer's output with the new weights is the next layer's input, so that later layers see
//!   the errors of earlier ones.
//!
//! For a number of bytes ([`Target::Bytes`]), what each matrix costs in each type is measured
//! first, and the bytes go where they save most.
//!
//! At equal bytes, quantization beats pruning: pruning pays in operations, not in quality per byte.
//!
//! Read [`compress`] and [`Options`] first.

mod allocate;
mod calibrate;
mod compress;
mod cut;
mod elastic;
mod error;
mod floats;
mod foresee;
mod gram;
mod grid;
mod linalg;
mod out;
mod own_text;
mod pack;
mod plan;
mod probe;
mod prune;
mod refit;
mod resume;
mod round;
mod search;
mod sensitivity;
mod sparsify;
mod spread;
mod text;
mod writer;

#[cfg(test)]
mod tests;

pub use compress::{Options, Progress, Pruning, Report, Target, Work, compress};
pub use elastic::{StepReport, WidthReport};
pub use error::CompressError;
pub use foresee::{Forecast, foresee};
pub use gram::Gram;
pub use out::LayerReport;
pub use prune::PruneMethod;
pub use resume::forget;
pub use sparsify::{Pattern, SparseMethod, Sparsity};
pub use text::SEQUENCE;
pub use writer::write_text;
