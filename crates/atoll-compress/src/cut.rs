//! What is taken from every layer, in whole neurons or single weights.

use atoll_model::{BlockType, ModelConfig, TensorSource};

use crate::compress::{Options, Pruning, Target};
use crate::error::CompressError;
use crate::floats::{KINDS, matrix_name};
use crate::prune::PruneMethod;
use crate::sparsify::Sparsity;

/// What the number of kept neurons is a multiple of at least: the kernels' blocks of columns.
const NEURONS_MULTIPLE: usize = 32;

/// What is taken from every layer.
#[derive(Debug, Clone)]
pub(crate) enum Cut {
    /// Nothing.
    Nothing,
    /// Neurons of the feed-forward block.
    Neurons {
        /// How many stay; if there are several widths, which fall, the first of them are narrower
        /// layers.
        widths: Vec<usize>,
        method: PruneMethod,
    },
    /// Single weights of every matrix.
    Weights(Sparsity),
}

impl Cut {
    /// What `options` ask for.
    ///
    /// # Errors
    /// A share, width or pattern that cannot be, or wishes that exclude each other.
    pub(crate) fn new(source: &TensorSource, options: &Options) -> Result<Self, CompressError> {
        let config = source.config();
        let (share, method) = match options.pruning {
            Pruning::Nothing => (0.0, PruneMethod::Sobs),
            Pruning::Neurons { share, method } => (share, method),
            Pruning::Weights(sparsity) => {
                return Self::weights(source, options, sparsity);
            }
        };
        let multiple = multiple(source, options.target)?;
        let mut widths = vec![kept_neurons(config.ffn_dim, share, multiple)?];
        for &share in &options.widths {
            let refused = CompressError::Width { share, neurons: widths[0] };
            if !(share > 0.0 && share < 1.0) {
                return Err(refused);
            }
            let width = kept_neurons(widths[0], 1.0 - share, multiple)?;
            if width >= widths[widths.len() - 1] {
                return Err(refused);
            }
            widths.push(width);
        }
        match widths.len() == 1 && widths[0] == config.ffn_dim {
            true => Ok(Self::Nothing),
            false => Ok(Self::Neurons { widths, method }),
        }
    }

    fn weights(
        source: &TensorSource,
        options: &Options,
        sparsity: Sparsity,
    ) -> Result<Self, CompressError> {
        if !options.widths.is_empty() {
            return Err(CompressError::Together("a choice of widths", "pruned weights"));
        }
        if matches!(options.target, Target::Bytes(_)) {
            return Err(CompressError::Together("a number of bytes", "pruned weights"));
        }
        for kind in KINDS {
            let name = matrix_name(0, kind);
            sparsity.check(&name, source.require(&name)?.info.cols)?;
        }
        Ok(Self::Weights(sparsity))
    }

    /// Neurons that stay in every layer.
    pub(crate) fn neurons(&self, config: &ModelConfig) -> usize {
        match self {
            Self::Neurons { widths, .. } => widths[0],
            Self::Nothing | Self::Weights(_) => config.ffn_dim,
        }
    }
}

/// What the number of neurons must be a multiple of, so that the rows of every down projection are
/// whole blocks.
fn multiple(source: &TensorSource, target: Target) -> Result<usize, CompressError> {
    let config = source.config();
    let of_type = |ty: BlockType| match config.ffn_dim.is_multiple_of(ty.block_len()) {
        true => ty.block_len().max(NEURONS_MULTIPLE),
        false => NEURONS_MULTIPLE,
    };
    match target {
        Target::Type(ty) => Ok(of_type(ty)),
        Target::Bytes(_) => Ok(NEURONS_MULTIPLE),
        Target::AsGiven => (0..config.n_layers).try_fold(NEURONS_MULTIPLE, |most, layer_idx| {
            let down = source.require(&matrix_name(layer_idx, "ffn_down"))?;
            Ok(most.max(of_type(down.info.dtype)))
        }),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a count of neurons")]
fn kept_neurons(neurons: usize, share: f32, multiple: usize) -> Result<usize, CompressError> {
    if !(0.0..1.0).contains(&share) {
        return Err(CompressError::Share { share });
    }
    if share == 0.0 {
        return Ok(neurons);
    }
    let keep = (neurons as f32 * (1.0 - share)) as usize;
    let keep = (keep + multiple / 2) / multiple * multiple;
    Ok(keep.clamp(multiple.min(neurons), neurons))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_stay_as_blocks_hold() {
        let kept = |neurons, share, multiple| kept_neurons(neurons, share, multiple).expect("ok");
        assert_eq!(kept(4864, 0.0, 256), 4864);
        assert_eq!(kept(4864, 0.2, 256), 3840);
        assert_eq!(kept(4864, 0.2, 32), 3904);
        assert_eq!(kept(100, 0.99, 32), 32);
        assert_eq!(kept(20, 0.5, 32), 20);
        assert!(kept_neurons(64, 1.0, 32).is_err() && kept_neurons(64, f32::NAN, 32).is_err());
    }
}
