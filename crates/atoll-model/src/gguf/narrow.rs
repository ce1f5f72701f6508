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

impl GgufFile {
    /// The widths that it can run at, the whole one first, each with its divergence from the model
    /// that the file was made of; none if it was made for one width.
    #[must_use]
    pub fn widths(&self) -> Vec<(usize, f32)> {
        let metadata = self.metadata();
        let (Some(Value::Ints(widths)), Some(Value::Floats(divergences))) =
            (metadata.value(WIDTHS), metadata.value(WIDTHS_DIVERGENCE))
        else {
            return Vec::new();
        };
        let widths = widths.iter().filter_map(|&width| usize::try_from(width).ok());
        let is_legal = |width: &usize| (1..=self.config.ffn_dim).contains(width);
        widths.zip(divergences.iter().copied()).filter(|(width, _)| is_legal(width)).collect()
    }

    /// The same bytes as a model of which every feed-forward block has its first `ffn_dim` neurons
    /// alone. The down projections' part of it is copied.
    ///
    /// # Errors
    /// [`ModelError::InvalidInput`] if it has not as many, or a row of a down projection no whole
    /// blocks of them, or its layers differ in width.
    pub fn narrowed(&self, ffn_dim: usize) -> Result<Self, ModelError> {
        let config = ModelConfig { ffn_dim, ..self.config.clone() };
        let refused = |why| ModelError::InvalidInput { what: "width", why };
        if ffn_dim == 0 || ffn_dim > self.config.ffn_dim {
            return Err(refused(format!("{ffn_dim} of {} neurons", self.config.ffn_dim)));
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
            config,
        };
        let layers = 0..narrow.config.n_layers;
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
        let (wide, narrow) = (file(), file().narrowed(64).expect("half"));
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
            let found = file().narrowed(width);
            assert!(matches!(found, Err(ModelError::InvalidInput { .. })), "{width}");
        }
        assert!(file().widths().is_empty());
    }
}
