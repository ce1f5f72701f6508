//! Narrower widths of a model, and what it is with some layers at one of them.

use serde::{Deserialize, Serialize};

use super::{BlobEntry, BlobSink, Manifest, PartEntry, cut_part};
use crate::blob::{BlobHash, BlobKind};
use crate::error::ModelError;
use crate::gguf::Width;
use crate::tensor::TensorSource;

/// Narrower widths of a model: with the whole one as many as a planner chooses among.
const WIDTHS_MAX: u64 = 7;
/// What a layer can cost, millionths of a nat: a thousand nats.
const LOSS_MAX: u64 = 1_000_000_000;

/// A narrower width at which the layers of a model can run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WidthEntry {
    /// Neurons of a layer's feed-forward block.
    pub neurons: usize,
    /// The layers at that width, in order.
    pub layers: Vec<PartEntry>,
    /// What each adds to the divergence from the model that the file was made of, millionths of a
    /// nat.
    pub losses: Vec<u64>,
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
            if width.layers.len() != n_layers || width.losses.len() != n_layers {
                return malformed("it has not as many layers as the model");
            }
            if width.losses.iter().any(|loss| *loss > LOSS_MAX) {
                return malformed("a layer's loss is absurd");
            }
            let config = self.config.narrowed(&vec![width.neurons; n_layers]);
            for (idx, layer) in width.layers.iter().enumerate() {
                layer.validate(&format!("{what}, layer {idx}"), &config.layer_tensors(idx))?;
            }
            last = width.neurons;
        }
        Ok(())
    }

    /// The model with layer `i` at the width `choice[i]`: 0 as it is, 1 the first of
    /// [`Self::widths`]. Its blobs are some of this one's.
    ///
    /// # Errors
    /// [`ModelError::InvalidInput`] if there is not a choice for each layer, or no such width.
    pub fn narrowed(&self, choice: &[usize]) -> Result<Self, ModelError> {
        let refused = |why| ModelError::InvalidInput { what: "width", why };
        if choice.len() != self.config.n_layers {
            let why = format!("{} for {} layers", choice.len(), self.config.n_layers);
            return Err(refused(why));
        }
        if let Some(wrong) = choice.iter().find(|width| **width > self.widths.len()) {
            return Err(refused(format!("number {wrong} of {}", self.widths.len())));
        }
        let width = |choice: usize| choice.checked_sub(1).map(|idx| &self.widths[idx]);
        let neurons = |&choice: &usize| width(choice).map_or(self.config.ffn_dim, |w| w.neurons);
        let neurons: Vec<usize> = choice.iter().map(neurons).collect();
        let layer = |(idx, &choice): (usize, &usize)| {
            let from = width(choice).map_or(&self.layers, |width| &width.layers);
            from[idx].clone()
        };
        let narrow = Self {
            config: self.config.narrowed(&neurons),
            layers: choice.iter().enumerate().map(layer).collect(),
            loss: choice.iter().enumerate().fold(self.loss, |sum, (idx, &choice)| {
                sum.saturating_add(width(choice).map_or(0, |width| width.losses[idx]))
            }),
            widths: Vec::new(),
            narrowed_from: Some(BlobHash(self.id())),
            ..self.clone()
        };
        narrow.validate()?;
        Ok(narrow)
    }

    /// Every blob of the narrower widths.
    pub fn narrower_blobs(&self) -> impl Iterator<Item = BlobEntry> + '_ {
        self.widths.iter().flat_map(|width| &width.layers).map(PartEntry::entry)
    }
}

/// How far the whole width is from the model that the file was made of, millionths of a nat, and
/// the layers at each narrower width.
pub(super) fn cut_widths<E: From<ModelError>>(
    source: &TensorSource,
    sink: &mut BlobSink<'_, E>,
) -> Result<(u64, Vec<WidthEntry>), E> {
    let TensorSource::Gguf(file) = source else { return Ok((0, Vec::new())) };
    let (mut entries, mut widths) = (Vec::new(), file.widths().into_iter());
    let loss = widths.next().map_or(0, |whole| millionths(whole.kl_mean));
    for Width { neurons, layers, .. } in widths {
        let narrow = file.narrowed(&vec![neurons; layers.len()])?;
        let config = narrow.config().clone();
        let narrow = TensorSource::Gguf(narrow);
        let mut cut =
            |idx: usize| cut_part(&narrow, BlobKind::Layer(idx), &config.layer_tensors(idx), sink);
        let losses = layers.iter().map(|nats| millionths(*nats)).collect();
        let layers = (0..layers.len()).map(&mut cut).collect::<Result<_, E>>()?;
        entries.push(WidthEntry { neurons, layers, losses });
    }
    Ok((loss, entries))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "limited before")]
fn millionths(nats: f32) -> u64 {
    (f64::from(nats) * 1e6).clamp(0.0, LOSS_MAX as f64).round() as u64
}
