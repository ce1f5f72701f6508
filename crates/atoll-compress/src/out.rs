//! The result in the making: matrices are rounded or kept, and written down.

mod tables;

pub(crate) use tables::beside_layers;

use atoll_model::{Compute, GgufWriter, TensorInfo, TensorSource};
use ndarray::{Array1, Array2, Axis};
use serde::Serialize;

use crate::calibrate::Sequences;
use crate::cut::Cut;
use crate::error::CompressError;
use crate::floats::{FloatLayer, matrix_name};
use crate::gram::Gram;
use crate::pack;
use crate::plan::{Plan, Way};
use crate::prune::{Kept, PruneMethod, prune};
use crate::refit::{Wanted, refit};
use crate::resume::Done;
use crate::round::{Columns, Zeros, round};

/// Where a layer's matrices come from and how they are stored.
pub(crate) struct Store<'a> {
    pub(crate) source: &'a TensorSource,
    pub(crate) layer_idx: usize,
    pub(crate) plan: &'a Plan,
    pub(crate) cut: &'a Cut,
    pub(crate) compute: &'a Compute,
}

impl Store<'_> {
    fn name(&self, kind: &str) -> String {
        matrix_name(self.layer_idx, kind)
    }

    fn bias(&self, kind: &str) -> String {
        format!("blk.{}.{kind}.bias", self.layer_idx)
    }

    fn rounds(&self, kind: &str) -> bool {
        matches!(self.plan.way(&self.name(kind)), Way::Round(_))
    }
}

/// The result in the making.
pub(crate) struct Out {
    pub(crate) writer: GgufWriter<'static>,
    pub(crate) weights: u64,
    /// Those that were set to 0.
    pub(crate) zeros: u64,
    pub(crate) bytes: u64,
    pending: Pending,
}

/// Tensors that are finished and not in the writer yet.
#[derive(Debug, Default)]
struct Pending {
    tensors: Vec<(TensorInfo, Vec<u8>)>,
    zeros: u64,
}

/// What became of a layer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerReport {
    /// Bytes of its tensors.
    pub bytes: u64,
    /// Bytes that they had.
    pub bytes_before: u64,
    /// Feed-forward neurons that stay.
    pub neurons: usize,
    /// Share of the energy of the feed-forward block's output that pruning its neurons lost, on the
    /// calibration text; where the rest was repaired, a decoder's tokens weigh by their states, and
    /// of an encoder it is what is missing of what the model as given says there.
    pub lost_by_pruning: Option<f64>,
}

/// What goes into a down projection, (tokens, ffn_dim), and its moments.
type IntoDown = (Array2<f32>, Gram);

/// Removes neurons of `layer`, given a text and what goes into the layer's gate and up there, and
/// refits what stays, if that is to be. Also gives what goes into down of the neurons that stay,
/// with its moments, if that is as it was.
fn pruned(
    store: &Store<'_>,
    layer: &mut FloatLayer,
    method: PruneMethod,
    seen: Option<(&Sequences, &Array2<f32>)>,
) -> Result<(Kept, Option<IntoDown>), CompressError> {
    let pool = &store.compute.pool;
    let values = seen.map(|(text, inputs)| text.neurons(layer, inputs, store.compute));
    let both = seen.zip(values.as_ref());
    let moments = both.map(|((text, _), values)| match method {
        PruneMethod::Sobs => text.moments_of_neurons(layer, values, pool),
        PruneMethod::Flap | PruneMethod::Magnitude => text.moments(values, pool),
    });
    let wanted = seen.and_then(|(text, inputs)| Some((inputs, text.wanted(layer)?)));
    let (name, widths) = (store.name("ffn_down"), store.cut.widths_of(store.layer_idx));
    let mut kept = prune(&name, layer, widths, method, moments.as_ref(), pool)?;
    if let Some((inputs, output)) = &wanted {
        let wanted = Wanted { inputs, output };
        kept.lost = Some(refit(&name, layer, &wanted, store.compute)?);
    }
    if wanted.is_some() || ["ffn_gate", "ffn_up"].iter().any(|kind| store.rounds(kind)) {
        return Ok((kept, None));
    }
    // What stays says what it said.
    let values = values.map(|values| values.select(Axis(1), &kept.neurons));
    let seen = values.zip(moments.map(|moments| moments.select(&kept.neurons)));
    Ok((kept, seen))
}

impl Out {
    pub(crate) fn new() -> Self {
        let pending = Pending::default();
        Self { writer: GgufWriter::new(), weights: 0, zeros: 0, bytes: 0, pending }
    }

    fn push(&mut self, info: TensorInfo, bytes: Vec<u8>) {
        self.pending.tensors.push((info, bytes));
    }

    /// Writes tensors down, of whose weights `zeros` were set to 0.
    pub(crate) fn add(&mut self, tensors: Vec<(TensorInfo, Vec<u8>)>, zeros: u64) {
        self.zeros += zeros;
        for (info, bytes) in tensors {
            self.weights += (info.rows * info.cols) as u64;
            self.bytes += bytes.len() as u64;
            self.writer.tensor(info, bytes);
        }
    }

    /// Writes down what is finished.
    pub(crate) fn flush(&mut self) {
        let Pending { tensors, zeros } = std::mem::take(&mut self.pending);
        self.add(tensors, zeros);
    }

    /// Copies the norms and biases of a layer, but for those that `is_changed` names.
    fn vectors(
        &mut self,
        store: &Store<'_>,
        is_changed: impl Fn(&str) -> bool,
    ) -> Result<(), CompressError> {
        let specs = store.source.config().layer_tensors(store.layer_idx);
        let mut vectors = specs.iter().filter(|spec| spec.rows == 1 && !is_changed(&spec.name));
        vectors.try_for_each(|spec| self.copy(store.source, &spec.name))
    }

    /// Stores `values` in the type that the vector called `name` has.
    fn vector(
        &mut self,
        source: &TensorSource,
        name: &str,
        values: &Array1<f32>,
    ) -> Result<(), CompressError> {
        let info = &source.require(name)?.info;
        let info = TensorInfo { cols: values.len(), ..(*info).clone() };
        let values = values.view().insert_axis(Axis(0)).to_owned();
        let floats = pack::floats(info.dtype, &values);
        let (bytes, _) = floats.ok_or(CompressError::Type(info.dtype))?;
        self.push(info, bytes);
        Ok(())
    }

    /// Makes every vector and matrix of `layer`, the feed-forward block pruned first if neurons are
    /// removed, leaves in it what the result stands for, and takes `text` through that.
    pub(crate) fn layer(
        &mut self,
        store: &Store<'_>,
        layer: &mut FloatLayer,
        mut text: Option<&mut Sequences>,
    ) -> Result<Done, CompressError> {
        let (config, compute) = (store.source.config(), store.compute);
        let (up_bias, down_bias) = (store.bias("ffn_up"), store.bias("ffn_down"));
        let is_pruned = matches!(store.cut, Cut::Neurons { .. });
        if let Some(text) = &mut text {
            text.follow_through(layer, config, compute);
        }
        self.vectors(store, |name| is_pruned && (name == up_bias || name == down_bias))?;
        let mut kept = None;
        let pool = &compute.pool;
        let moments = |inputs: &Option<Array2<f32>>, text: &Option<&mut Sequences>| {
            text.as_ref().zip(inputs.as_ref()).map(|(text, inputs)| text.moments(inputs, pool))
        };

        let inputs = text.as_ref().map(|text| text.attention_inputs(layer, config, pool));
        let FloatLayer { q, k, v, .. } = &mut *layer;
        let qkv = [("attn_q", q), ("attn_k", k), ("attn_v", v)];
        self.siblings(store, qkv, None, &|| moments(&inputs, &text))?;

        let attended = |(text, inputs): (&&mut Sequences, &Array2<f32>)| {
            text.attended(layer, inputs, config, compute)
        };
        let inputs = text.as_ref().zip(inputs.as_ref()).map(attended);
        self.siblings(store, [("attn_output", &mut layer.o)], None, &|| moments(&inputs, &text))?;
        if let (Some(text), Some(inputs)) = (&mut text, &inputs) {
            text.advance(inputs, pool, |output, x| {
                layer.after_attention(config, compute, output, x)
            });
        }

        let inputs = text.as_ref().map(|text| text.ffn_inputs(layer, config, pool));
        let seen = match (&store.cut, text.as_deref(), inputs.as_ref()) {
            (Cut::Neurons { method, .. }, text, inputs) => {
                let (stays, seen) = pruned(store, layer, *method, text.zip(inputs))?;
                kept = Some(stays);
                seen
            }
            (Cut::Nothing | Cut::Weights(_), ..) => None,
        };
        let FloatLayer { gate, up, .. } = &mut *layer;
        let gate = gate.as_mut().map(|gate| ("ffn_gate", gate));
        let both = gate.into_iter().chain([("ffn_up", up)]);
        let rows = kept.as_ref().map(|kept| &kept.neurons[..]);
        self.siblings(store, both, rows, &|| moments(&inputs, &text))?;

        let (inputs, gram) = match seen {
            Some((values, gram)) => (Some(values), Some(gram)),
            None => {
                let both = text.as_ref().zip(inputs.as_ref());
                (both.map(|(text, inputs)| text.neurons(layer, inputs, compute)), None)
            }
        };
        let of_inputs = || gram.clone().or_else(|| moments(&inputs, &text));
        self.siblings(store, [("ffn_down", &mut layer.down)], None, &of_inputs)?;
        if let (Some(text), Some(inputs)) = (text, inputs) {
            text.advance(&inputs, pool, |neurons, x| layer.after_ffn(config, compute, neurons, x));
        }
        if let Some(encoder) = layer.encoder.as_ref().filter(|_| is_pruned) {
            self.vector(store.source, &up_bias, &encoder.up_bias)?;
            self.vector(store.source, &down_bias, &encoder.down_bias)?;
        }
        let specs = config.layer_tensors(store.layer_idx);
        let before = specs.iter().map(|spec| Ok(store.source.require(&spec.name)?.bytes.len()));
        let bytes_before = before.sum::<Result<usize, CompressError>>()? as u64;
        let Pending { tensors, zeros } = std::mem::take(&mut self.pending);
        let report = LayerReport {
            bytes: tensors.iter().map(|(_, bytes)| bytes.len() as u64).sum(),
            bytes_before,
            neurons: layer.up.nrows(),
            lost_by_pruning: kept.and_then(|kept| kept.lost),
        };
        Ok(Done { tensors, zeros, report })
    }

    /// Stores matrices of a layer that share an input, by what `moments` it has, and leaves in them
    /// what the result stands for. Of those that stay as they are, `kept_rows` do, if it says so.
    fn siblings<'a>(
        &mut self,
        store: &Store<'_>,
        matrices: impl IntoIterator<Item = (&'a str, &'a mut Array2<f32>)>,
        kept_rows: Option<&[usize]>,
        moments: &dyn Fn() -> Option<Gram>,
    ) -> Result<(), CompressError> {
        let mut columns: Option<Columns> = None;
        for (kind, matrix) in matrices {
            let name = store.name(kind);
            let Way::Round(dtype) = store.plan.way(&name) else {
                match kept_rows {
                    Some(kept) => self.copy_rows(store.source, &name, kept)?,
                    None => self.copy(store.source, &name)?,
                }
                continue;
            };
            let (rows, cols) = matrix.dim();
            let columns = match &mut columns {
                Some(columns) => columns,
                none => none.insert(match moments() {
                    Some(gram) => {
                        let errors = store.cut.errors();
                        Columns::of_inputs(&name, gram.mean(), errors, &store.compute.pool)?
                    }
                    None => Columns::alike(cols),
                }),
            };
            let mut zeros = Zeros::Free;
            if let Cut::Weights(sparsity) = store.cut {
                sparsity.apply(matrix, columns, &store.compute.pool);
                zeros = Zeros::Stay;
            }
            let rounded = round(matrix, dtype, zeros, columns, &store.compute.pool)?;
            if zeros == Zeros::Stay {
                self.pending.zeros +=
                    rounded.values.iter().filter(|value| **value == 0.0).count() as u64;
            }
            self.push(TensorInfo { name, dtype, rows, cols }, rounded.bytes);
            *matrix = rounded.values;
        }
        Ok(())
    }

    pub(crate) fn copy(&mut self, source: &TensorSource, name: &str) -> Result<(), CompressError> {
        let tensor = source.require(name)?;
        self.push(tensor.info.clone(), tensor.bytes.to_vec());
        Ok(())
    }

    /// Copies some rows of a matrix, in the order of `rows`.
    fn copy_rows(
        &mut self,
        source: &TensorSource,
        name: &str,
        rows: &[usize],
    ) -> Result<(), CompressError> {
        let tensor = source.require(name)?;
        let row_bytes = tensor.info.dtype.row_bytes(tensor.info.cols);
        let bytes = rows.iter().flat_map(|row| &tensor.bytes[row * row_bytes..][..row_bytes]);
        let info = TensorInfo { rows: rows.len(), ..tensor.info.clone() };
        self.push(info, bytes.copied().collect());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use atoll_model::rope::Rope;
    use atoll_model::{Architecture, BlockType, GgufFile, Isa, tiny};

    use super::*;
    use crate::round::Errors;
    use crate::sparsify::{Pattern, SparseMethod, Sparsity};

    #[test]
    fn each_matrix_is_rounded_by_the_moments_of_its_own_input() {
        check(None);
    }

    #[test]
    fn weights_go_by_the_moments_of_what_makes_up_for_them() {
        check(Some(Sparsity { pattern: Pattern::Share(0.5), method: SparseMethod::SparseGpt }));
    }

    /// Whether a layer becomes what its matrices become one by one, without weights that go.
    fn check(gone: Option<Sparsity>) {
        let (errors, zeros) = match gone {
            Some(_) => (Errors::OfRemoval, Zeros::Stay),
            None => (Errors::OfRounding, Zeros::Free),
        };
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
        let plan = Plan::layers_in(ty, &config).expect("a type");
        let (mut seen, mut layer) = (text(), given.clone());
        let mut out = Out::new();
        let store = Store {
            source: &source,
            layer_idx: 0,
            plan: &plan,
            cut: &gone.map_or(Cut::Nothing, Cut::Weights),
            compute: &compute,
        };
        out.layer(&store, &mut layer, Some(&mut seen)).expect("rounded");

        let (mut text, mut want) = (text(), given);
        let rounded = |text: &Sequences, inputs: &Array2<f32>, matrix: &mut Array2<f32>| {
            let h = text.moments(inputs, pool).mean();
            let columns = Columns::of_inputs("it", h, errors, pool).expect("numbers");
            if let Some(sparsity) = gone {
                sparsity.apply(matrix, &columns, pool);
            }
            *matrix = round(matrix, ty, zeros, &columns, pool).expect("a type").values;
        };
        let qkv = text.attention_inputs(&want, &config, pool);
        rounded(&text, &qkv, &mut want.q);
        rounded(&text, &qkv, &mut want.k);
        rounded(&text, &qkv, &mut want.v);
        let output = text.attended(&want, &qkv, &config, &compute);
        rounded(&text, &output, &mut want.o);
        text.advance(&output, pool, |output, x| want.after_attention(&config, &compute, output, x));
        let ffn = text.ffn_inputs(&want, &config, pool);
        rounded(&text, &ffn, want.gate.as_mut().expect("a decoder's"));
        rounded(&text, &ffn, &mut want.up);
        let down = text.neurons(&want, &ffn, &compute);
        rounded(&text, &down, &mut want.down);
        text.advance(&down, pool, |neurons, x| want.after_ffn(&config, &compute, neurons, x));
        for (kind, (got, wanted)) in layer.matrices().zip(want.matrices()).enumerate() {
            assert_eq!(got, wanted, "matrix {kind}");
        }
        let (got, wanted) = (
            seen.attention_inputs(&want, &config, pool),
            text.attention_inputs(&want, &config, pool),
        );
        assert_eq!(got, wanted, "what the next layer is given");
    }
}
