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
    ModelError::check_limit("widths", widths.len() as u64, WIDTHS_MAX)?;
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::collections::BTreeMap;

    use atoll_kernels::BlockType;

    use super::*;
    use crate::blob::ShardBlob;
    use crate::config::Architecture;
    use crate::gguf::{GgufFile, STEPS, Value, WIDTHS, WIDTHS_DIVERGENCE};
    use crate::manifest::ShardSet;
    use crate::tiny;
    use crate::tokenizer::Tokenizer;

    /// A tiny model of 4 layers with 128, 96 or 64 neurons.
    fn elastic() -> GgufFile {
        let config = tiny::config(Architecture::Llama);
        let file = GgufFile::parse(tiny::random_model(&config, BlockType::Q8_0, 5)).unwrap();
        let keys = [
            (WIDTHS, Value::Ints(vec![128, 96, 64])),
            (WIDTHS_DIVERGENCE, Value::Floats(vec![0.1, 0.3, 0.5])),
            (STEPS[0], Value::Ints(vec![2, 0, 2, 3, 1, 0])),
            (STEPS[1], Value::Ints(vec![1, 1, 2, 2, 2, 2])),
            // The second falls by what measuring is off.
            (STEPS[2], Value::Floats(vec![0.12, 0.11, 0.2, 0.3, 0.4, 0.5])),
        ];
        GgufFile::parse(tiny::with_keys(&file, keys)).unwrap()
    }

    fn split() -> (GgufFile, Manifest, BTreeMap<BlobHash, Vec<u8>>) {
        let (file, mut blobs) = (elastic(), BTreeMap::new());
        let tokenizer = Tokenizer::from_gguf(file.metadata()).unwrap();
        let mut sink = |_, hash, bytes: &[u8]| -> Result<(), ModelError> {
            blobs.insert(hash, bytes.to_vec());
            Ok(())
        };
        let source = TensorSource::Gguf(file);
        let manifest = Manifest::split("tiny", &source, &tokenizer, None, &mut sink).unwrap();
        (elastic(), manifest, blobs)
    }

    #[test]
    fn with_some_steps_taken_it_is_the_file_so_narrow() {
        let (file, manifest, blobs) = split();
        assert_eq!(Manifest::parse(&manifest.to_json()).unwrap(), manifest);
        assert_eq!(manifest.loss, 100_000);
        let losses: Vec<u64> = manifest.steps.iter().map(|step| step.loss).collect();
        assert_eq!(losses, [120_000, 120_000, 200_000, 300_000, 400_000, 500_000]);
        for (n, neurons) in
            [(0, [128; 4]), (2, [96, 128, 96, 128]), (4, [96, 128, 64, 64]), (6, [64; 4])]
        {
            let narrow = manifest.narrowed(n).unwrap();
            assert_eq!(Manifest::parse(&narrow.to_json()).unwrap(), narrow);
            assert_eq!(narrow.narrowed_from, Some(BlobHash(manifest.id())));
            assert_eq!(narrow.loss, if n == 0 { 100_000 } else { losses[n - 1] });
            let parts = narrow.blobs().filter(|(kind, _)| *kind != BlobKind::Tokenizer);
            let parts = parts.map(|(_, entry)| ShardBlob::parse(blobs[&entry.blob].clone()));
            let parts = parts.collect::<Result<_, _>>().unwrap();
            let shards = TensorSource::Shards(ShardSet::new(narrow.config.clone(), parts).unwrap());
            let wanted = TensorSource::Gguf(file.narrowed(&neurons).unwrap());
            assert_eq!(narrow.config, *wanted.config());
            for spec in narrow.config.all_tensors() {
                let bytes =
                    |source: &TensorSource| source.require(&spec.name).unwrap().bytes.to_vec();
                assert_eq!(bytes(&shards), bytes(&wanted), "{n} steps, {}", spec.name);
            }
        }
        let known: Vec<BlobHash> = manifest.narrower_blobs().map(|entry| entry.blob).collect();
        assert!(known.len() == 8 && known.iter().all(|blob| blobs.contains_key(blob)));
        assert!(matches!(manifest.narrowed(7), Err(ModelError::InvalidInput { .. })));
    }

    #[test]
    fn widths_and_steps_that_cannot_be_are_refused() {
        let (_, manifest, _) = split();
        let check = |change: &dyn Fn(&mut Manifest), expected: &str| {
            let mut changed = manifest.clone();
            change(&mut changed);
            let error = Manifest::parse(&changed.to_json()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(&|m| m.widths.swap(0, 1), "width 96: it is not narrower");
        check(&|m| m.widths[1].neurons = 96, "width 96: it is not narrower");
        check(&|m| m.widths[0].neurons = 0, "width 0: it is not narrower");
        check(&|m| drop(m.widths[0].layers.pop()), "it has not as many layers");
        check(&|m| m.widths[0].layers[1].bytes += 1, "width 96, layer 1");
        check(&|m| m.widths = vec![m.widths[0].clone(); 8], "widths");
        check(&|m| m.steps[1].layer = 4, "step 1: there is no such layer");
        check(&|m| m.steps[1].width = 0, "step 1: the layer does not become narrower");
        check(&|m| m.steps[2].width = 1, "step 2: the layer does not become narrower");
        check(&|m| m.steps[2].width = 3, "step 2: the layer does not become narrower");
        check(&|m| m.steps[2].loss = 1, "step 2: its loss is absurd");
        check(&|m| m.steps[5].loss = u64::MAX, "step 5: its loss is absurd");
    }

    #[test]
    fn files_with_steps_that_make_no_sense_have_none() {
        let file = elastic();
        assert_eq!((file.steps().len(), file.widths().len()), (6, 3));
        let changed = |key, value| GgufFile::parse(tiny::with_keys(&file, [(key, value)])).unwrap();
        for (key, value) in [
            (STEPS[0], Value::Ints(vec![4; 6])),
            (STEPS[0], Value::Ints(vec![-1; 6])),
            (STEPS[1], Value::Ints(vec![3; 6])),
            (STEPS[1], Value::Ints(vec![0; 6])),
            (STEPS[2], Value::Floats(vec![f32::NAN; 6])),
            (STEPS[2], Value::Uint(1)),
        ] {
            assert!(changed(key, value.clone()).steps().is_empty(), "{key} {value:?}");
        }
        for widths in [vec![128, 130], vec![96, 64], vec![128, 64, 64], vec![128, 0]] {
            let file = changed(WIDTHS, Value::Ints(widths.clone()));
            assert!(file.widths().is_empty() && file.steps().is_empty(), "{widths:?}");
        }
    }
}
