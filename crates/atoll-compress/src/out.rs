//! The result in the making: matrices are rounded or kept, and written down.

use atoll_model::{Compute, GgufWriter, TensorInfo, TensorSource};
use ndarray::{Array2, Axis};

use crate::calibrate::{Moments, Sequences};
use crate::error::CompressError;
use crate::floats::{FloatLayer, matrix_name};
use crate::gram::Gram;
use crate::plan::{EMBED, Plan, Way};
use crate::round::{Columns, round};
use crate::sensitivity::head_name;

/// Second moments of a layer's inputs, if there is a text, and the neurons that were kept.
pub(crate) struct Seconds {
    pub(crate) moments: Option<Moments>,
    pub(crate) kept: Option<Vec<usize>>,
}

impl Seconds {
    fn of(&self, which: impl Fn(&Moments) -> &Gram) -> Option<Array2<f32>> {
        self.moments.as_ref().map(|moments| which(moments).mean())
    }

    /// Those of the down projection's input: the values of kept neurons are what they were.
    fn of_kept(&self) -> Option<Array2<f32>> {
        let whole = self.of(|moments| &moments.down)?;
        Some(match &self.kept {
            Some(kept) => whole.select(Axis(0), kept).select(Axis(1), kept),
            None => whole,
        })
    }
}

/// A layer's matrices that share an input, with their names' suffixes, and the input's seconds.
type Siblings<'a> = (Vec<(&'static str, &'a mut Array2<f32>)>, Option<Array2<f32>>);

/// The result in the making.
pub(crate) struct Out {
    pub(crate) writer: GgufWriter<'static>,
    pub(crate) weights: u64,
    pub(crate) bytes: u64,
}

impl Out {
    fn push(&mut self, info: TensorInfo, bytes: Vec<u8>) {
        self.weights += (info.rows * info.cols) as u64;
        self.bytes += bytes.len() as u64;
        self.writer.tensor(info, bytes);
    }

    /// Copies the norms and biases of a layer.
    pub(crate) fn vectors(
        &mut self,
        source: &TensorSource,
        layer_idx: usize,
    ) -> Result<(), CompressError> {
        let specs = source.config().layer_tensors(layer_idx);
        specs
            .iter()
            .filter(|spec| spec.rows == 1)
            .try_for_each(|spec| self.copy(source, &spec.name))
    }

    /// Rounds every matrix of a layer, and leaves in `layer` what the result stands for.
    pub(crate) fn matrices(
        &mut self,
        source: &TensorSource,
        layer_idx: usize,
        layer: &mut FloatLayer,
        plan: &Plan,
        seconds: &Seconds,
        compute: &Compute,
    ) -> Result<(), CompressError> {
        let qkv =
            vec![("attn_q", &mut layer.q), ("attn_k", &mut layer.k), ("attn_v", &mut layer.v)];
        let siblings: [Siblings<'_>; 4] = [
            (qkv, seconds.of(|moments| &moments.qkv)),
            (vec![("attn_output", &mut layer.o)], seconds.of(|moments| &moments.output)),
            (
                vec![("ffn_gate", &mut layer.gate), ("ffn_up", &mut layer.up)],
                seconds.of(|moments| &moments.ffn),
            ),
            (vec![("ffn_down", &mut layer.down)], seconds.of_kept()),
        ];
        let name = |suffix: &str| matrix_name(layer_idx, suffix);
        for (matrices, h) in siblings {
            if matrices.iter().all(|(suffix, _)| plan.way(&name(suffix)) == Way::Keep) {
                for (suffix, _) in matrices {
                    self.copy(source, &name(suffix))?;
                }
                continue;
            }
            let (first, cols) = (matrices[0].0, matrices[0].1.ncols());
            let columns = match h {
                Some(h) => Columns::of_inputs(&name(first), h, &compute.pool)?,
                None => Columns::alike(cols),
            };
            for (suffix, matrix) in matrices {
                let Way::Round(dtype) = plan.way(&name(suffix)) else {
                    self.copy(source, &name(suffix))?;
                    continue;
                };
                let rounded = round(matrix, dtype, &columns, &compute.pool)?;
                let rows = matrix.nrows();
                self.push(TensorInfo { name: name(suffix), dtype, rows, cols }, rounded.bytes);
                *matrix = rounded.values;
            }
        }
        Ok(())
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
        let head = match sequences.filter(|_| plan.expected.is_some()) {
            Some(text) => {
                let norm = source.require_shape("output_norm.weight", 1, config.dim)?;
                let h = text.head_moments(&norm.dequantize().into(), config.norm_eps, compute);
                Columns::of_inputs("the head", h.mean(), &compute.pool)?
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
            bytes.extend(round(&values, dtype, columns, &compute.pool)?.bytes);
        }
        self.push(TensorInfo { dtype, ..info }, bytes);
        Ok(())
    }

    pub(crate) fn copy(&mut self, source: &TensorSource, name: &str) -> Result<(), CompressError> {
        let tensor = source.require(name)?;
        self.push(tensor.info.clone(), tensor.bytes.to_vec());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use atoll_model::{Architecture, BlockType, GgufFile, Isa, tiny};

    use super::*;

    /// Moments that no other input of `n` columns has.
    fn moments(n: usize, seed: usize, compute: &Compute) -> Gram {
        let x = Array2::from_shape_fn((2 * n, n), |(i, j)| {
            ((i * 31 + j * 17 * seed + i * j * seed) % 13) as f32 - 6.0
        });
        let mut gram = Gram::new(n);
        gram.add(x.view(), &compute.pool);
        gram
    }

    #[test]
    fn each_matrix_is_rounded_by_the_moments_of_its_own_input() {
        let config = tiny::config(Architecture::Llama);
        let bytes = tiny::random_model(&config, BlockType::F32, 7);
        let source = TensorSource::Gguf(GgufFile::parse(bytes).expect("a whole model"));
        let compute = Compute::new(Isa::detect(), 1).expect("a thread");
        let ty = BlockType::Q4_0;
        let of = |n, seed| moments(n, seed, &compute);
        let moments = Moments {
            qkv: of(config.dim, 1),
            output: of(config.q_dim(), 2),
            ffn: of(config.dim, 3),
            down: of(config.ffn_dim, 4),
        };
        let given = FloatLayer::read(&source, 0).expect("a layer");
        let wanted = [
            (&given.q, &moments.qkv),
            (&given.k, &moments.qkv),
            (&given.v, &moments.qkv),
            (&given.o, &moments.output),
            (&given.gate, &moments.ffn),
            (&given.up, &moments.ffn),
            (&given.down, &moments.down),
        ]
        .map(|(matrix, gram)| {
            let columns = Columns::of_inputs("it", gram.mean(), &compute.pool).expect("numbers");
            round(matrix, ty, &columns, &compute.pool).expect("a type").values
        });
        let mut layer = given.clone();
        let mut out = Out { writer: GgufWriter::new(), weights: 0, bytes: 0 };
        let seconds = Seconds { moments: Some(moments), kept: None };
        let plan = Plan::layers_in(ty, &config, config.ffn_dim);
        out.matrices(&source, 0, &mut layer, &plan, &seconds, &compute).expect("rounded");
        let FloatLayer { q, k, v, o, gate, up, down, .. } = layer;
        for (index, (got, wanted)) in [q, k, v, o, gate, up, down].iter().zip(&wanted).enumerate() {
            assert_eq!(got, wanted, "matrix {index}");
        }
    }
}
