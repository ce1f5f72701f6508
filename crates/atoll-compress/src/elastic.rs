//! One set of bytes that runs at several widths: what each is and how far it is from the model as
//! given.

use std::sync::Arc;

use atoll_model::gguf::{STEPS, Value, WIDTHS, WIDTHS_DIVERGENCE};
use atoll_model::perplexity::{PerplexityOptions, perplexity};
use atoll_model::{Compute, GgufFile, GgufWriter, Part, Stage, TensorSource};
use serde::Serialize;

use crate::compress::{Progress, Work};
use crate::cut::Cut;
use crate::error::CompressError;

mod steps;

/// Keys that say at which widths a file can run.
pub(crate) const KEYS: [&str; 5] = [WIDTHS, WIDTHS_DIVERGENCE, STEPS[0], STEPS[1], STEPS[2]];
/// Tokens of a chunk by which widths are judged.
const CHUNK: usize = 512;
/// Times that the way from the whole width to the narrowest is looked at, the end included.
const LOOKS: usize = 8;
/// Chunks by which a layer alone is judged at a width: what counts is its place among others.
const LAYER_CHUNKS: usize = 3;

/// A width of the result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WidthReport {
    /// Feed-forward neurons of each layer.
    pub neurons: usize,
    /// Bytes of weights that one token reads.
    pub weight_bytes_per_token: u64,
    /// Mean divergence from the model as given, nats per token, on a text that was not calibrated
    /// on.
    pub kl_mean: f64,
}

/// A layer of the result at a narrower width, where there is no room for it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepReport {
    /// Which layer.
    pub layer: usize,
    /// Its feed-forward neurons then.
    pub neurons: usize,
    /// Mean divergence from the model as given with all steps before it, nats per token; between
    /// the places where it was measured in proportion to what layers lose alone.
    pub kl_mean: f64,
}

/// The widths that the result shall have; none if it has only one.
#[derive(Debug)]
pub(crate) struct Elastic {
    widths: Vec<usize>,
}

impl Elastic {
    pub(crate) fn of(cut: &Cut) -> Self {
        let widths = match cut {
            Cut::Neurons { widths, .. } if widths.len() > 1 => widths.clone(),
            Cut::Neurons { .. } | Cut::Nothing | Cut::Weights(_) => Vec::new(),
        };
        Self { widths }
    }

    /// Adds the keys to `writer`; what is not known yet is 0.
    pub(crate) fn reserve(&self, writer: &mut GgufWriter<'_>, n_layers: usize) {
        let steps = self.widths.len().saturating_sub(1) * n_layers;
        let step = StepReport { layer: 0, neurons: 0, kl_mean: 0.0 };
        self.note(writer, &vec![0.0; self.widths.len()], &vec![step; steps]);
    }

    #[expect(clippy::cast_possible_truncation, reason = "a figure of a few digits")]
    fn note(&self, writer: &mut GgufWriter<'_>, divergences: &[f64], steps: &[StepReport]) {
        if self.widths.is_empty() {
            return;
        }
        let ints =
            |all: &mut dyn Iterator<Item = usize>| Value::Ints(all.map(|n| n as i64).collect());
        let floats = |all: &mut dyn Iterator<Item = f64>| {
            Value::Floats(all.map(|nats| nats as f32).collect())
        };
        writer.key(WIDTHS, ints(&mut self.widths.iter().copied()));
        writer.key(WIDTHS_DIVERGENCE, floats(&mut divergences.iter().copied()));
        writer.key(STEPS[0], ints(&mut steps.iter().map(|step| step.layer)));
        let width = |step: &StepReport| self.widths.iter().position(|n| *n == step.neurons);
        writer.key(STEPS[1], ints(&mut steps.iter().map(|step| width(step).unwrap_or(0))));
        writer.key(STEPS[2], floats(&mut steps.iter().map(|step| step.kl_mean)));
    }

    /// Measures every width of the finished `writer` on `tokens`, finds the order in which layers
    /// become narrower by what each loses alone on some of them, measures some places of that way,
    /// and notes it all there.
    pub(crate) fn measure(
        &self,
        source: &TensorSource,
        writer: &mut GgufWriter<'_>,
        tokens: &[u32],
        compute: &Arc<Compute>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Vec<WidthReport>, Vec<StepReport>), CompressError> {
        let Some(&whole) = self.widths.first() else { return Ok(Default::default()) };
        let (n_layers, narrower) = (source.config().n_layers, self.widths.len() - 1);
        let judge = Judge {
            given: &load(source, compute)?,
            made: GgufFile::parse(writer.to_bytes())?,
            tokens,
            compute,
        };
        let looks = self.widths.len() + narrower * n_layers + LOOKS - 1;
        let mut looked = 0;
        let mut told = || {
            looked += 1;
            progress(Progress { work: Work::Judging, layers_done: looked, layers: looks });
        };
        let mut reports = Vec::with_capacity(self.widths.len());
        // Of each layer and width its bytes and what it loses alone.
        let mut layers = vec![Vec::with_capacity(self.widths.len()); n_layers];
        let mut least = 0.0;
        for &neurons in &self.widths {
            let all = vec![neurons; n_layers];
            let (kl_mean, weight_bytes_per_token) = judge.at(&all, usize::MAX)?;
            told();
            if neurons == whole {
                (least, _) = judge.at(&all, LAYER_CHUNKS)?;
            }
            for (layer_idx, widths) in layers.iter_mut().enumerate() {
                let mut one = vec![whole; n_layers];
                one[layer_idx] = neurons;
                let lost = if neurons == whole {
                    0.0
                } else {
                    told();
                    judge.at(&one, LAYER_CHUNKS)?.0 - least
                };
                widths.push((judge.bytes(&one, layer_idx)?, lost));
            }
            reports.push(WidthReport { neurons, weight_bytes_per_token, kl_mean });
        }
        let steps = self.way(&judge, &layers, &reports, &mut told)?;
        let divergences: Vec<f64> = reports.iter().map(|report| report.kl_mean).collect();
        self.note(writer, &divergences, &steps);
        Ok((reports, steps))
    }

    /// The steps from the whole width to the narrowest, measured at some places and in between in
    /// proportion to what layers lose alone.
    fn way(
        &self,
        judge: &Judge<'_>,
        layers: &[Vec<(u64, f64)>],
        reports: &[WidthReport],
        told: &mut dyn FnMut(),
    ) -> Result<Vec<StepReport>, CompressError> {
        let steps = steps::steps(layers);
        let mut neurons = vec![self.widths[0]; layers.len()];
        let mut way: Vec<StepReport> = Vec::with_capacity(steps.len());
        let (mut before, mut from) = (reports[0].kl_mean, 0);
        for look in 1..=LOOKS {
            let to = steps.len() * look / LOOKS;
            for step in &steps[from..to] {
                neurons[step.layer] = self.widths[step.width];
            }
            let at = if look == LOOKS {
                reports.last().map_or(before, |narrowest| narrowest.kl_mean)
            } else {
                told();
                judge.at(&neurons, usize::MAX)?.0
            };
            let (at, all) =
                (at.max(before), steps[from..to].iter().map(|step| step.lost).sum::<f64>());
            let mut lost = 0.0;
            for (idx, step) in steps[from..to].iter().enumerate() {
                lost += step.lost;
                let share =
                    if all > 0.0 { lost / all } else { (idx + 1) as f64 / (to - from) as f64 };
                way.push(StepReport {
                    layer: step.layer,
                    neurons: self.widths[step.width],
                    kl_mean: before + (at - before) * share,
                });
            }
            (before, from) = (at, to);
        }
        Ok(way)
    }
}

/// What widths are judged by.
struct Judge<'a> {
    given: &'a Stage,
    made: GgufFile,
    tokens: &'a [u32],
    compute: &'a Arc<Compute>,
}

impl Judge<'_> {
    /// The mean divergence with so many neurons in each layer, over so many chunks at most, and
    /// the bytes of weights that a token reads then.
    fn at(&self, neurons: &[usize], chunks_max: usize) -> Result<(f64, u64), CompressError> {
        let stage = load(&TensorSource::Gguf(self.made.narrowed(neurons)?), self.compute)?;
        let options = PerplexityOptions { context: CHUNK, chunks_max, bos: None };
        let found = perplexity(&stage, Some(self.given), self.tokens, options, &mut |_, _, _| {})?;
        let kl_mean = found.divergence.map_or(f64::NAN, |divergence| divergence.kl_mean);
        Ok((kl_mean, stage.weight_bytes_per_token() as u64))
    }

    /// Bytes of a layer with so many neurons in each.
    fn bytes(&self, neurons: &[usize], layer_idx: usize) -> Result<u64, CompressError> {
        let narrow = TensorSource::Gguf(self.made.narrowed(neurons)?);
        let specs = narrow.config().layer_tensors(layer_idx);
        let bytes = specs.iter().map(|spec| Ok(narrow.require(&spec.name)?.bytes.len() as u64));
        bytes.sum()
    }
}

fn load(source: &TensorSource, compute: &Arc<Compute>) -> Result<Stage, CompressError> {
    Ok(Stage::load(source, &Part::whole(source.config()), compute, &mut |_| {})?)
}
