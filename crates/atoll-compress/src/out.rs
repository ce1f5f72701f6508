//! The result in the making: matrices are rounded or kept, and written down.

use atoll_model::{Compute, GgufWriter, TensorInfo, TensorSource};
use ndarray::Array2;

use crate::calibrate::Sequences;
use crate::error::CompressError;
use crate::floats::{FloatLayer, matrix_name};
use crate::gram::Gram;
use crate::plan::{EMBED, Plan, Way};
use crate::prune::{PruneMethod, prune};
use crate::round::{Columns, round};
use crate::sensitivity::head_name;

/// How many neurons of the feed-forward block are kept, and how they are chosen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keep {
    pub(crate) neurons: usize,
    pub(crate) method: PruneMethod,
}

/// Where a layer's matrices come from and how they are stored.
pub(crate) struct Store<'a> {
    pub(crate) source: &'a TensorSource,
    pub(crate) layer_idx: usize,
    pub(crate) plan: &'a Plan,
    /// If neurons are removed first.
    pub(crate) keep: Option<Keep>,
    pub(crate) compute: &'a Compute,
}

impl Store<'_> {
    fn name(&self, kind: &str) -> String {
        matrix_name(self.layer_idx, kind)
    }
}

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

    /// Stores every matrix of `layer`, the feed-forward block pruned first if neurons are removed,
    /// leaves in it what the result stands for, and takes `text` through that.
    pub(crate) fn layer(
        &mut self,
        store: &Store<'_>,
        layer: &mut FloatLayer,
        mut text: Option<&mut Sequences>,
    ) -> Result<(), CompressError> {
        let (config, compute) = (store.source.config(), store.compute);
        let pool = &compute.pool;
        let moments = |inputs: &Option<Array2<f32>>, text: &Option<&mut Sequences>| {
            text.as_ref().zip(inputs.as_ref()).map(|(text, inputs)| text.moments(inputs, pool))
        };

        let inputs = text.as_ref().map(|text| text.attention_inputs(layer, config, pool));
        let FloatLayer { q, k, v, .. } = &mut *layer;
        let qkv = [("attn_q", q), ("attn_k", k), ("attn_v", v)];
        self.siblings(store, qkv, &|| moments(&inputs, &text))?;

        let attended = |(text, inputs): (&&mut Sequences, &Array2<f32>)| {
            text.attended(layer, inputs, config, compute)
        };
        let inputs = text.as_ref().zip(inputs.as_ref()).map(attended);
        self.siblings(store, [("attn_output", &mut layer.o)], &|| moments(&inputs, &text))?;
        if let (Some(text), Some(inputs)) = (&mut text, &inputs) {
            text.add(inputs, &layer.o, pool);
        }

        let inputs = text.as_ref().map(|text| text.ffn_inputs(layer, config, pool));
        let neurons = |layer: &FloatLayer, text: &Option<&mut Sequences>| {
            let both = text.as_ref().zip(inputs.as_ref());
            both.map(|(text, inputs)| text.neurons(layer, inputs, pool))
        };
        if let Some(Keep { neurons: n, method }) = store.keep {
            let seen = moments(&neurons(layer, &text), &text);
            prune(&store.name("ffn_down"), layer, n, method, seen.as_ref(), pool)?;
        }
        let FloatLayer { gate, up, .. } = &mut *layer;
        let both = [("ffn_gate", gate), ("ffn_up", up)];
        self.siblings(store, both, &|| moments(&inputs, &text))?;

        let inputs = neurons(layer, &text);
        self.siblings(store, [("ffn_down", &mut layer.down)], &|| moments(&inputs, &text))?;
        if let (Some(text), Some(inputs)) = (text, inputs) {
            text.add(&inputs, &layer.down, pool);
        }
        Ok(())
    }

    /// Stores matrices of a layer that share an input, by what `moments` it has, and leaves in them
    /// what the result stands for.
    fn siblings<const N: usize>(
        &mut self,
        store: &Store<'_>,
        matrices: [(&str, &mut Array2<f32>); N],
        moments: &dyn Fn() -> Option<Gram>,
    ) -> Result<(), CompressError> {
        let mut columns: Option<Columns> = None;
        for (kind, matrix) in matrices {
            let name = store.name(kind);
            let Way::Round(dtype) = store.plan.way(&name) else {
                self.copy(store.source, &name)?;
                continue;
            };
            let (rows, cols) = matrix.dim();
            let columns = match &mut columns {
                Some(columns) => columns,
                none => none.insert(match moments() {
                    Some(gram) => Columns::of_inputs(&name, gram.mean(), &store.compute.pool)?,
                    None => Columns::alike(cols),
                }),
            };
            let rounded = round(matrix, dtype, columns, &store.compute.pool)?;
            self.push(TensorInfo { name, dtype, rows, cols }, rounded.bytes);
            *matrix = rounded.values;
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
                let h =
                    text.head_moments(&norm.dequantize().into(), config.norm_eps, &compute.pool);
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
    use crate::floats::KINDS;
    use atoll_model::rope::Rope;
    use atoll_model::{Architecture, BlockType, GgufFile, Isa, tiny};

    use super::*;

    #[test]
    fn each_matrix_is_rounded_by_the_moments_of_its_own_input() {
        let config = tiny::config(Architecture::Llama);
        let bytes = tiny::random_model(&config, BlockType::F32, 7);
        let source = TensorSource::Gguf(GgufFile::parse(bytes).expect("a whole model"));
        let compute = Compute::new(Isa::detect(), 1).expect("a thread");
        let (ty, pool) = (BlockType::Q4_0, &compute.pool);
        let text = || {
            let states = Array2::from_shape_fn((256, config.dim), |(i, j)| {
                ((i * 31 + j * 17 + i * j) % 13) as f32 - 6.0
            });
            Sequences::new(states, 64, Rope::new(&config.rope).table(0..64))
        };
        let given = FloatLayer::read(&source, 0).expect("a layer");
        let plan = Plan::layers_in(ty, &config, config.ffn_dim);
        let (mut seen, mut layer) = (text(), given.clone());
        let mut out = Out { writer: GgufWriter::new(), weights: 0, bytes: 0 };
        let store =
            Store { source: &source, layer_idx: 0, plan: &plan, keep: None, compute: &compute };
        out.layer(&store, &mut layer, Some(&mut seen)).expect("rounded");

        let (mut text, mut want) = (text(), given);
        let rounded = |text: &Sequences, inputs: &Array2<f32>, matrix: &mut Array2<f32>| {
            let h = text.moments(inputs, pool).mean();
            let columns = Columns::of_inputs("it", h, pool).expect("numbers");
            *matrix = round(matrix, ty, &columns, pool).expect("a type").values;
        };
        let qkv = text.attention_inputs(&want, &config, pool);
        rounded(&text, &qkv, &mut want.q);
        rounded(&text, &qkv, &mut want.k);
        rounded(&text, &qkv, &mut want.v);
        let output = text.attended(&want, &qkv, &config, &compute);
        rounded(&text, &output, &mut want.o);
        text.add(&output, &want.o, pool);
        let ffn = text.ffn_inputs(&want, &config, pool);
        rounded(&text, &ffn, &mut want.gate);
        rounded(&text, &ffn, &mut want.up);
        let down = text.neurons(&want, &ffn, pool);
        rounded(&text, &down, &mut want.down);
        text.add(&down, &want.down, pool);
        for (got, (wanted, kind)) in layer.matrices().iter().zip(want.matrices().iter().zip(KINDS))
        {
            assert_eq!(got, wanted, "{kind}");
        }
        let (got, wanted) = (
            seen.attention_inputs(&want, &config, pool),
            text.attention_inputs(&want, &config, pool),
        );
        assert_eq!(got, wanted, "what the next layer is given");
    }
}
