//! What is taken from every layer, in whole neurons or single weights.

use atoll_model::{BlockType, Compute, ModelConfig, TensorSource};

use crate::calibrate::Sequences;
use crate::compress::{Options, Progress, Pruning, Target};
use crate::error::CompressError;
use crate::floats::matrix_name;
use crate::probe::ProbeText;
use crate::prune::PruneMethod;
use crate::resume::Resume;
use crate::round::Errors;
use crate::sparsify::Sparsity;
use crate::spread::{Wish, spread};

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
        /// How many stay in each layer, (n_layers), if layers differ; then there is one width.
        layers: Vec<usize>,
        method: PruneMethod,
        /// If layers are to differ, what each number is then a multiple of ([`Cut::spread`]).
        uneven: Option<usize>,
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
        if config.encoder.is_some() && !options.widths.is_empty() {
            return Err(CompressError::Together("a choice of widths", "an encoder"));
        }
        let writes_itself = options.own_sequences > 0 && options.written.is_none();
        if config.encoder.is_some() && writes_itself {
            return Err(CompressError::Together("a text of the model's own", "an encoder"));
        }
        let (share, method, alike) = match options.pruning {
            Pruning::Nothing => (0.0, PruneMethod::Sobs, true),
            Pruning::Neurons { share, method, alike } => (share, method, alike),
            Pruning::Weights(sparsity) => {
                return Self::weights(source, options, sparsity);
            }
        };
        if !options.widths.is_empty() && !config.ffn_dims.is_empty() {
            return Err(CompressError::Together(
                "a choice of widths",
                "layers of different widths",
            ));
        }
        let multiple = multiple(source, options.target)?;
        let of_layer = |&neurons: &usize| kept_neurons(neurons, share, multiple);
        let layers = config.ffn_dims.iter().map(of_layer).collect::<Result<Vec<_>, _>>()?;
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
        match widths.len() == 1 && widths[0] == config.ffn_dim && layers == config.ffn_dims {
            true => Ok(Self::Nothing),
            false => {
                let may_differ = !alike && method != PruneMethod::Magnitude;
                let is_uneven = may_differ && widths.len() == 1 && layers.is_empty();
                let layers = if is_uneven {
                    about_alike(config.n_layers, config.ffn_dim, share, multiple)?
                } else {
                    layers
                };
                Ok(Self::Neurons { widths, layers, method, uneven: is_uneven.then_some(multiple) })
            }
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
        let layer = source.config().layer_tensors(0);
        for spec in layer.iter().filter(|spec| spec.rows > 1) {
            sparsity.check(&spec.name, spec.cols)?;
        }
        Ok(Self::Weights(sparsity))
    }

    /// Decides how many neurons stay in each layer, if layers are to differ; `text` is what goes
    /// into the first layer of the calibration text, and that text.
    ///
    /// # Errors
    /// As [`spread`], and [`CompressError::Work`].
    pub(crate) fn spread(
        &mut self,
        source: &TensorSource,
        text: Option<(&Sequences, ProbeText<'_>)>,
        resume: Option<&Resume>,
        compute: &Compute,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), CompressError> {
        /// What the numbers are noted under.
        const NOTE: &str = "neurons";
        let Self::Neurons { widths, layers, method, uneven: Some(multiple) } = self else {
            return Ok(());
        };
        let known = resume.and_then(|at| at.get(NOTE)).and_then(|text| {
            let text = String::from_utf8(text).ok()?;
            text.split(' ').map(|count| count.parse().ok()).collect::<Option<Vec<usize>>>()
        });
        *layers = match (known, text) {
            (Some(known), _) => known,
            (None, Some(text)) => {
                let all = layers.iter().sum();
                let wish = Wish { alike: widths[0], all, multiple: *multiple };
                spread(source, wish, *method, text, compute, progress)?
            }
            (None, None) => return Ok(()),
        };
        let text = layers.iter().map(usize::to_string).collect::<Vec<_>>().join(" ");
        resume.map_or(Ok(()), |resume| resume.put(NOTE, text.as_bytes()))
    }

    /// Whether deciding that takes the whole model in floats.
    pub(crate) fn holds_all(&self) -> bool {
        matches!(self, Self::Neurons { method: PruneMethod::Sobs, uneven: Some(_), .. })
    }

    /// Whether pruning neurons of the model `given` leaves other numbers in the matrix called
    /// `name`, not just fewer.
    pub(crate) fn changes(&self, name: &str, given: &ModelConfig) -> bool {
        name.ends_with("ffn_down.weight") || self.refits(given) && name.ends_with("ffn_up.weight")
    }

    /// Whether what stays of each feed-forward block of the model `given` is refitted: of encoders,
    /// where structured OBS decides what stays. A decoder's up projection would have to be rounded
    /// anew for it, which costs more than it wins.
    pub(crate) fn refits(&self, given: &ModelConfig) -> bool {
        given.encoder.is_some() && matches!(self, Self::Neurons { method: PruneMethod::Sobs, .. })
    }

    /// What errors columns of a matrix carry.
    pub(crate) fn errors(&self) -> Errors {
        match self {
            Self::Weights(sparsity) => sparsity.method.errors(),
            Self::Neurons { .. } | Self::Nothing => Errors::OfRounding,
        }
    }

    /// The configuration of the result.
    pub(crate) fn result(&self, given: &ModelConfig) -> ModelConfig {
        let mut config = given.clone();
        if let Self::Neurons { widths, layers, .. } = self {
            let most = layers.iter().copied().max().unwrap_or(widths[0]);
            let is_alike = layers.iter().all(|neurons| *neurons == most);
            config.ffn_dims = if is_alike { Vec::new() } else { layers.clone() };
            config.ffn_dim = most;
        }
        config
    }

    /// How many neurons of layer `layer_idx` stay, at each width.
    pub(crate) fn widths_of(&self, layer_idx: usize) -> &[usize] {
        match self {
            Self::Neurons { widths, layers, .. } => {
                layers.get(layer_idx).map_or(widths, std::slice::from_ref)
            }
            Self::Nothing | Self::Weights(_) => &[],
        }
    }
}

/// What the number of neurons must be a multiple of, so that the rows of every down projection are
/// whole blocks.
fn multiple(source: &TensorSource, target: Target) -> Result<usize, CompressError> {
    let config = source.config();
    let of_type = |ty: BlockType, layer_idx: usize| match config
        .ffn_dim_of(layer_idx)
        .is_multiple_of(ty.block_len())
    {
        true => ty.block_len().max(NEURONS_MULTIPLE),
        false => NEURONS_MULTIPLE,
    };
    (0..config.n_layers).try_fold(NEURONS_MULTIPLE, |most, layer_idx| {
        let here = match target {
            Target::Type(ty) => of_type(ty, layer_idx),
            Target::Bytes(_) => NEURONS_MULTIPLE,
            Target::AsGiven => {
                let down = source.require(&matrix_name(layer_idx, "ffn_down"))?;
                of_type(down.info.dtype, layer_idx)
            }
        };
        Ok(most.max(here))
    })
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

/// As many of the `neurons` of each of `n` layers as blocks hold, and in all as many as stay of all
/// together: so many in all stay of layers that differ, whichever keep more.
fn about_alike(
    n: usize,
    neurons: usize,
    share: f32,
    multiple: usize,
) -> Result<Vec<usize>, CompressError> {
    let least = multiple.min(neurons);
    let all = kept_neurons(n * neurons, share, multiple)?.max(n * least);
    let blocks = all / multiple;
    let of_layer = |idx| (blocks * (idx + 1) / n - blocks * idx / n) * multiple;
    Ok((0..n).map(|idx| of_layer(idx).clamp(least, neurons)).collect())
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
        let layers = |share| about_alike(6, 1536, share, 32).expect("a share");
        assert_eq!(layers(0.3).iter().sum::<usize>(), 6464, "1,075 of each, in all 6,451");
        assert_eq!(layers(0.302), [1056, 1088, 1056, 1088, 1056, 1088]);
        assert_eq!(layers(0.999), [32; 6]);
        assert!(kept_neurons(64, 1.0, 32).is_err() && kept_neurons(64, f32::NAN, 32).is_err());
    }
}
