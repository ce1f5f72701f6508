//! One set of bytes that runs at several widths: what each is and how far it is from the model as
//! given.

use std::sync::Arc;

use atoll_model::gguf::{LAYERS_DIVERGENCE, Value, WIDTHS, WIDTHS_DIVERGENCE};
use atoll_model::perplexity::{PerplexityOptions, perplexity};
use atoll_model::{Compute, GgufFile, GgufWriter, Part, Stage, TensorSource};
use serde::Serialize;

use crate::compress::{Progress, Work};
use crate::cut::Cut;
use crate::error::CompressError;

/// Keys that say at which widths a file can run.
pub(crate) const KEYS: [&str; 3] = [WIDTHS, WIDTHS_DIVERGENCE, LAYERS_DIVERGENCE];
/// Tokens of a chunk by which widths are judged.
const CHUNK: usize = 512;
/// Chunks by which a layer alone is judged at a width: what counts is its share of all layers.
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
    /// What each layer adds to that of the whole width if it alone is narrower, nats; none at the
    /// whole width.
    pub layers: Vec<f64>,
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
        let narrower = self.widths.len().saturating_sub(1);
        self.note(writer, &vec![0.0; self.widths.len()], &vec![0.0; narrower * n_layers]);
    }

    #[expect(clippy::cast_possible_truncation, reason = "a figure of a few digits")]
    fn note(&self, writer: &mut GgufWriter<'_>, divergences: &[f64], layers: &[f64]) {
        if self.widths.is_empty() {
            return;
        }
        let widths = self.widths.iter().map(|&width| width as i64).collect();
        let floats = |all: &[f64]| Value::Floats(all.iter().map(|&nats| nats as f32).collect());
        writer.key(WIDTHS, Value::Ints(widths));
        writer.key(WIDTHS_DIVERGENCE, floats(divergences));
        writer.key(LAYERS_DIVERGENCE, floats(layers));
    }

    /// Measures every width of the finished `writer` on `tokens`, and every layer alone at every
    /// narrower one on some of them, and notes it there.
    pub(crate) fn measure(
        &self,
        source: &TensorSource,
        writer: &mut GgufWriter<'_>,
        tokens: &[u32],
        compute: &Arc<Compute>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<WidthReport>, CompressError> {
        let Some(&whole) = self.widths.first() else { return Ok(Vec::new()) };
        let n_layers = source.config().n_layers;
        let judge = Judge {
            given: &load(source, compute)?,
            made: GgufFile::parse(writer.to_bytes())?,
            tokens,
            compute,
        };
        let mut reports = Vec::with_capacity(self.widths.len());
        let looks = self.widths.len() + (self.widths.len() - 1) * n_layers;
        let mut looked = 0;
        let mut told = || {
            looked += 1;
            progress(Progress { work: Work::Judging, layers_done: looked, layers: looks });
        };
        let mut least = 0.0;
        for &neurons in &self.widths {
            let all = vec![neurons; n_layers];
            let (kl_mean, weight_bytes_per_token) = judge.at(&all, usize::MAX)?;
            told();
            let mut layers = Vec::new();
            if neurons == whole {
                (least, _) = judge.at(&all, LAYER_CHUNKS)?;
            } else {
                for layer_idx in 0..n_layers {
                    let mut one = vec![whole; n_layers];
                    one[layer_idx] = neurons;
                    layers.push(judge.at(&one, LAYER_CHUNKS)?.0 - least);
                    told();
                }
            }
            reports.push(WidthReport { neurons, weight_bytes_per_token, kl_mean, layers });
        }
        let divergences: Vec<f64> = reports.iter().map(|report| report.kl_mean).collect();
        let layers = reports.iter().flat_map(|report| &report.layers);
        self.note(writer, &divergences, &layers.copied().collect::<Vec<_>>());
        Ok(reports)
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
}

fn load(source: &TensorSource, compute: &Arc<Compute>) -> Result<Stage, CompressError> {
    Ok(Stage::load(source, &Part::whole(source.config()), compute, &mut |_| {})?)
}
