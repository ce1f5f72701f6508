//! A file whose neurons are ordered, read as a narrower model: of every feed-forward block the
//! first neurons alone.

use std::collections::HashMap;

use super::{GgufFile, Value};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::mapped::FileBytes;

/// The key of the widths that a file can run at: neurons of every feed-forward block, falling, the
/// whole width first.
pub const WIDTHS: &str = "atoll.widths";
/// The key of how far each is from the model that the file was made of: the mean divergence in
/// nats.
pub const WIDTHS_DIVERGENCE: &str = "atoll.widths.kl";
/// The keys of the steps from the whole width to the narrowest, one layer at a time: which layer,
/// to which of the widths, and the mean divergence in nats once that step and all before it are
/// taken.
pub const STEPS: [&str; 3] =
    ["atoll.widths.steps.layer", "atoll.widths.steps.width", "atoll.widths.steps.kl"];

/// A width that a file can run at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Width {
    /// Neurons of every feed-forward block.
    pub neurons: usize,
    /// Mean divergence from the model that the file was made of, nats, if all layers have it.
    pub kl_mean: f32,
}

/// A layer at a narrower width.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Which layer.
    pub layer: usize,
    /// At which of the widths, from 1 on: 0 is the whole one.
    pub width: usize,
    /// Mean divergence from the model that the file was made of, nats, with all steps before it.
    pub kl_mean: f32,
}

impl GgufFile {
    /// The widths that it can run at, the whole one first; none if it was made for one width, or
    /// if what it says of them makes no sense.
    #[must_use]
    pub fn widths(&self) -> Vec<Width> {
        let metadata = self.metadata();
        let (Some(Value::Ints(widths)), Some(Value::Floats(divergences))) =
            (metadata.value(WIDTHS), metadata.value(WIDTHS_DIVERGENCE))
        else {
            return Vec::new();
        };
        let mut found: Vec<Width> = Vec::with_capacity(widths.len());
        for (idx, (&neurons, &kl_mean)) in widths.iter().zip(divergences).enumerate() {
            let neurons = usize::try_from(neurons).unwrap_or(0);
            let last = found.last().map_or(self.config.ffn_dim + 1, |last| last.neurons);
            let is_whole = neurons == self.config.ffn_dim;
            if !(1..last).contains(&neurons) || is_whole != (idx == 0) || !kl_mean.is_finite() {
                return Vec::new();
            }
            found.push(Width { neurons, kl_mean });
        }
        found
    }

    /// The steps from the whole width to the narrowest, as [`Self::widths`]: a layer is never to
    /// become wider.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        let (metadata, widths) = (self.metadata(), self.widths());
        let [layers, to, divergences] = STEPS.map(|key| metadata.value(key));
        let (Some(Value::Ints(layers)), Some(Value::Ints(to)), Some(Value::Floats(divergences))) =
            (layers, to, divergences)
        else {
            return Vec::new();
        };
        let mut at = vec![0; self.config.n_layers];
        let mut steps = Vec::with_capacity(layers.len());
        for ((&layer, &width), &kl_mean) in layers.iter().zip(to).zip(divergences) {
            let (layer, width) = (usize::try_from(layer).ok(), usize::try_from(width).ok());
            let Some((layer, width)) = layer.zip(width) else { return Vec::new() };
            let is_legal = at.get(layer).is_some_and(|at| (at + 1..widths.len()).contains(&width));
            if !is_legal || !kl_mean.is_finite() {
                return Vec::new();
            }
            at[layer] = width;
            steps.push(Step { layer, width, kl_mean });
        }
        steps
    }

    /// The same bytes as a model of which the feed-forward block of layer `i` has its first
    /// `neurons[i]` alone. The down projections' part of it is copied.
    ///
    /// # Errors
    /// [`ModelError::InvalidInput`] if there is not a number for each layer, a layer has not as
    /// many, or a row of a down projection no whole blocks of them, or the model's layers differ in
    /// width already.
    pub fn narrowed(&self, neurons: &[usize]) -> Result<Self, ModelError> {
        let refused = |why| ModelError::InvalidInput { what: "width", why };
        let (whole, n_layers) = (self.config.ffn_dim, self.config.n_layers);
        if neurons.len() != n_layers {
            return Err(refused(format!("{} for {n_layers} layers", neurons.len())));
        }
        if let Some(wrong) = neurons.iter().find(|neurons| !(1..=whole).contains(*neurons)) {
            return Err(refused(format!("{wrong} of {whole} neurons")));
        }
        if !self.config.ffn_dims.is_empty() {
            return Err(refused("the model's layers differ in width".to_owned()));
        }
        let mut narrow = Self {
            bytes: self.bytes.clone(),
            metadata: self.metadata.clone(),
            tensors: self.tensors.clone(),
            places: self.places.clone(),
            cut: HashMap::new(),
            config: self.config.narrowed(neurons),
        };
        let layers = 0..n_layers;
        for spec in layers.flat_map(|idx| narrow.config.layer_tensors(idx)).collect::<Vec<_>>() {
            let Some((idx, range)) = narrow.places.get_mut(&spec.name) else { continue };
            let info = &mut narrow.tensors[*idx];
            if (info.rows, info.cols) == (spec.rows, spec.cols) {
                continue;
            }
            let old_row = range.len() / info.rows;
            let old_cols = info.cols;
            (info.rows, info.cols) = (spec.rows, spec.cols);
            let len = info.bytes_len().map_err(|error| refused(error.to_string()))?;
            if info.cols == old_cols {
                range.end = range.start + len;
            } else {
                let stored = &self.bytes[range.clone()];
                narrow.cut.insert(spec.name, first_columns(stored, old_row, len / info.rows));
                *range = 0..len;
            }
        }
        Ok(narrow)
    }
}

impl ModelConfig {
    /// The same with `neurons[i]` in the feed-forward block of layer `i`.
    pub(crate) fn narrowed(&self, neurons: &[usize]) -> Self {
        let ffn_dim = neurons.iter().copied().max().unwrap_or(self.ffn_dim);
        let is_alike = neurons.iter().all(|neurons| *neurons == ffn_dim);
        let ffn_dims = if is_alike { Vec::new() } else { neurons.to_vec() };
        Self { ffn_dim, ffn_dims, ..self.clone() }
    }
}

/// The first `bytes` of every row of `row_bytes`.
fn first_columns(stored: &[u8], row_bytes: usize, bytes: usize) -> FileBytes {
    stored.chunks_exact(row_bytes).flat_map(|row| &row[..bytes]).copied().collect::<Vec<_>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Architecture;
    use crate::tiny;
    use atoll_kernels::BlockType;

    fn file() -> GgufFile {
        let config = tiny::config(Architecture::Llama);
        let bytes = tiny::random_model(&config, BlockType::Q8_0, 7);
        GgufFile::parse(bytes).expect("a whole model")
    }

    #[test]
    fn the_first_neurons_are_the_narrower_model() {
        let (wide, narrow) = (file(), file().narrowed(&[64; 4]).expect("half"));
        assert_eq!((wide.config().ffn_dim, narrow.config().ffn_dim), (128, 64));
        let values = |file: &GgufFile, name: &str| {
            let tensor = file.tensor(name).expect("it is there");
            ndarray::Array2::from_shape_vec(
                (tensor.info.rows, tensor.info.cols),
                tensor.dequantize(),
            )
            .expect("the tensor's shape")
        };
        for name in ["blk.0.ffn_gate.weight", "blk.1.ffn_up.weight"] {
            let first = values(&wide, name).slice(ndarray::s![..64, ..]).to_owned();
            assert_eq!(values(&narrow, name), first, "{name}");
        }
        let name = "blk.1.ffn_down.weight";
        let first = values(&wide, name).slice(ndarray::s![.., ..64]).to_owned();
        assert_eq!(values(&narrow, name), first);
        let name = "blk.0.attn_q.weight";
        assert_eq!(values(&narrow, name), values(&wide, name));
    }

    #[test]
    fn widths_that_cannot_be_are_refused() {
        for width in [0, 129, 48] {
            let found = file().narrowed(&[128, width, 128, 128]);
            assert!(matches!(found, Err(ModelError::InvalidInput { .. })), "{width}");
        }
        assert!(file().widths().is_empty());
    }
}
