//! What stands beside the layers: embedding, head and their norms.

use atoll_model::{Compute, TensorInfo, TensorSource};
use ndarray::Array2;

use super::Out;
use crate::calibrate::Sequences;
use crate::error::CompressError;
use crate::plan::{EMBED, Plan, Way};
use crate::probe::head_name;
use crate::round::{Columns, Errors, Zeros, round};

/// What stands beside the layers and is copied: all but the tables of tokens.
pub(crate) fn beside_layers(source: &TensorSource) -> impl Iterator<Item = String> {
    let config = source.config();
    let specs = config.embed_tensors().into_iter().chain(config.head_tensors());
    let names = specs.map(|spec| spec.name);
    let kept = names.filter(|name| name != EMBED && name != head_name(config));
    let rope_factors = source.tensor("rope_freqs.weight").map(|tensor| tensor.info.name.clone());
    kept.chain(rope_factors)
}

impl Out {
    /// Copies what [`beside_layers`] names.
    pub(crate) fn beside_layers(&mut self, source: &TensorSource) -> Result<(), CompressError> {
        beside_layers(source).try_for_each(|name| self.copy(source, &name))
    }

    /// Stores embedding and head.
    pub(crate) fn tables(
        &mut self,
        source: &TensorSource,
        plan: &Plan,
        sequences: Option<&Sequences>,
        compute: &Compute,
    ) -> Result<(), CompressError> {
        let config = source.config();
        let head = match sequences.filter(|_| plan.expected.is_some() && config.encoder.is_none()) {
            Some(text) => {
                let norm = source.require_shape("output_norm.weight", 1, config.dim)?;
                let h =
                    text.head_moments(&norm.dequantize().into(), config.norm_eps, &compute.pool);
                Columns::of_inputs("the head", h.mean(), Errors::OfRounding, &compute.pool)?
            }
            None => Columns::alike(config.dim),
        };
        if plan.is_tied_anew || config.tied {
            return self.table(source, (head_name(config), EMBED), plan, &head, compute);
        }
        self.table(source, (EMBED, EMBED), plan, &Columns::alike(config.dim), compute)?;
        let name = head_name(config);
        self.table(source, (name, name), plan, &head, compute)
    }

    /// Stores the table `from` as `name`, some rows at a time.
    fn table(
        &mut self,
        source: &TensorSource,
        (from, name): (&str, &str),
        plan: &Plan,
        columns: &Columns,
        compute: &Compute,
    ) -> Result<(), CompressError> {
        /// Rows that are widened at once.
        const ROWS: usize = 4096;
        let tensor = source.require(from)?;
        let (rows, cols) = (tensor.info.rows, tensor.info.cols);
        let info = TensorInfo { name: name.to_owned(), ..tensor.info.clone() };
        let Way::Round(dtype) = plan.way(name) else {
            self.push(info, tensor.bytes.to_vec());
            return Ok(());
        };
        let mut bytes = Vec::with_capacity(rows * dtype.row_bytes(cols));
        for first in (0..rows).step_by(ROWS) {
            let some = first..(first + ROWS).min(rows);
            let mut values = Vec::with_capacity(some.len() * cols);
            for row in some.clone() {
                values.extend(tensor.row(row)?);
            }
            let values = Array2::from_shape_vec((some.len(), cols), values).expect("whole rows");
            bytes.extend(round(&values, dtype, Zeros::Free, columns, &compute.pool)?.bytes);
        }
        self.push(TensorInfo { dtype, ..info }, bytes);
        Ok(())
    }
}
