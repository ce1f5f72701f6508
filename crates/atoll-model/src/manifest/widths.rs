//! Narrower widths of a model, and what it is with some layers at one of them.

use serde::{Deserialize, Serialize};

use super::{BlobEntry, BlobSink, Manifest, PartEntry, cut_part};
use crate::blob::{BlobHash, BlobKind};
use crate::error::ModelError;
use crate::gguf::{Step, Width};
use crate::tensor::TensorSource;

/// Narrower widths of a model: with the whole one as many as a planner chooses among.
const WIDTHS_MAX: u64 = 7;
/// What all can cost, millionths of a nat: a thousand nats.
const LOSS_MAX: u64 = 1_000_000_000;

/// A narrower width at which the layers of a model can run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WidthEntry {
    /// Neurons of a layer's feed-forward block.
    pub neurons: usize,
    /// The layers at that width, in order.
    pub layers: Vec<PartEntry>,
}

/// A layer at a narrower width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepEntry {
    /// Which layer.
    pub layer: usize,
    /// At which of the narrower widths, the first of which is 1.
    pub width: usize,
    /// How far the model is from what its file was made of with all steps before it, millionths of
    /// a nat.
    pub loss: u64,
}

impl Manifest {
    /// Checks that narrower widths fall, and that their layers' sizes are those of their tensors.
    pub(super) fn validate_widths(&self) -> Result<(), ModelError> {
        ModelError::check_limit("widths", self.widths.len() as u64, WIDTHS_MAX)?;
        let (n_layers, mut last) = (self.config.n_layers, self.config.ffn_dim);
        if !self.widths.is_empty() && !self.config.ffn_dims.is_empty() {
            return Err(ModelError::malformed("manifest", "widths of layers that differ in width"));
        }
        for width in &self.widths {
            let what = format!("width {}", width.neurons);
            let malformed =
                |why: &str| Err(ModelError::malformed(format!("manifest, {what}"), why));
            if width.neurons == 0 || width.neurons >= last {
                return malformed("it is not narrower than the one before it");
            }
            if width.layers.len() != n_layers {
                return malformed("it has not as many layers as the model");
            }
            let config = self.config.narrowed(&vec![width.neurons; n_layers]);
            for (idx, layer) in width.layers.iter().enumerate() {
                layer.validate(&format!("{what}, layer {idx}"), &config.layer_tensors(idx))?;
            }
            last = width.neurons;
        }
        let (mut at, mut loss) = (vec![0; n_layers], 0);
        for (idx, step) in self.steps.iter().enumerate() {
            let malformed =
                |why: &str| Err(ModelError::malformed(format!("manifest, step {idx}"), why));
            let Some(at) = at.get_mut(step.layer) else {
                return malformed("there is no such layer");
            };
            if step.width <= *at || step.width > self.widths.len() {
                return malformed("the layer does not become narrower");
            }
            if step.loss < loss || step.loss > LOSS_MAX {
                return malformed("its loss is absurd");
            }
            (*at, loss) = (step.width, step.loss);
        }
        Ok(())
    }

    /// The model with the first `n` of [`Self::steps`] taken. Its blobs are some of this one's.
    ///
    /// # Errors
    /// [`ModelError::InvalidInput`] if there are not as many.
    pub fn narrowed(&self, n: usize) -> Result<Self, ModelError> {
        let Some(steps) = self.steps.get(..n) else {
            let why = format!("{n} of {} steps", self.steps.len());
            return Err(ModelError::InvalidInput { what: "width", why });
        };
        let mut narrow = self.clone();
        (narrow.widths, narrow.steps) = (Vec::new(), Vec::new());
        narrow.narrowed_from = Some(BlobHash(self.id()));
        let mut neurons = vec![self.config.ffn_dim; self.config.n_layers];
        for step in steps {
            let width = &self.widths[step.width - 1];
            neurons[step.layer] = width.neurons;
            narrow.layers[step.layer] = width.layers[step.layer].clone();
            narrow.loss = step.loss;
        }
        narrow.config = self.config.narrowed(&neurons);
        narrow.validate()?;
        Ok(narrow)
    }

    /// Every blob of the narrower widths.
    pub fn narrower_blobs(&self) -> impl Iterator<Item = BlobEntry> + '_ {
        self.widths.iter().flat_map(|width| &width.layers).map(PartEntry::entry)
    }
}

/// What there is of narrower widths.
#[derive(Default)]
pub(super) struct Narrower {
    /// How far the whole width is from the model that the file was made of, millionths of a nat.
    pub(super) loss: u64,
    pub(super) widths: Vec<WidthEntry>,
    pub(super) steps: Vec<StepEntry>,
}

/// The layers at each narrower width that the file was made for.
pub(super) fn cut_widths<E: From<ModelError>>(
    source: &TensorSource,
    sink: &mut BlobSink<'_, E>,
) -> Result<Narrower, E> {
    let TensorSource::Gguf(file) = source else { return Ok(Narrower::default()) };
    let (steps, mut widths) = (file.steps(), file.widths().into_iter());
    let mut loss = widths.next().map_or(0, |whole| millionths(whole.kl_mean));
    let mut narrower = Narrower { loss, ..Narrower::default() };
    if steps.is_empty() {
        return Ok(narrower);
    }
    for Width { neurons, .. } in widths {
        let n_layers = file.config().n_layers;
        let narrow = file.narrowed(&vec![neurons; n_layers])?;
        let config = narrow.config().clone();
        let narrow = TensorSource::Gguf(narrow);
        let mut cut =
            |idx: usize| cut_part(&narrow, BlobKind::Layer(idx), &config.layer_tensors(idx), sink);
        let layers = (0..n_layers).map(&mut cut).collect::<Result<_, E>>()?;
        narrower.widths.push(WidthEntry { neurons, layers });
    }
    for Step { layer, width, kl_mean } in steps {
        // What was measured may fall by what measuring is off.
        loss = loss.max(millionths(kl_mean));
        narrower.steps.push(StepEntry { layer, width, loss });
    }
    Ok(narrower)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "limited before")]
fn millionths(nats: f32) -> u64 {
    (f64::from(nats) * 1e6).clamp(0.0, LOSS_MAX as f64).round() as u64
}
