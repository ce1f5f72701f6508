//! One set of bytes that runs at several widths: what each is and how far it is from the model as
//! given.

use std::sync::Arc;

use atoll_model::gguf::{Value, WIDTHS, WIDTHS_DIVERGENCE};
use atoll_model::perplexity::{PerplexityOptions, perplexity};
use atoll_model::{Compute, GgufFile, GgufWriter, Part, Stage, TensorSource};
use serde::Serialize;

use crate::compress::{Progress, Work};
use crate::cut::Cut;
use crate::error::CompressError;

/// Keys that say at which widths a file can run.
pub(crate) const KEYS: [&str; 2] = [WIDTHS, WIDTHS_DIVERGENCE];
/// Tokens of a chunk by which widths are judged.
const CHUNK: usize = 512;

/// A width of the result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WidthReport {
    /// Feed-forward neurons of each layer.
    pub neurons: usize,
    /// Bytes of weights that one token reads.
    pub weight_bytes_per_token: u64,
    /// Mean divergence from the model as given, nats per token, on tokens of the text that were not
    /// calibrated on.
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
    pub(crate) fn reserve(&self, writer: &mut GgufWriter<'_>) {
        self.note(writer, &vec![0.0; self.widths.len()]);
    }

    #[expect(clippy::cast_possible_truncation, reason = "a figure of a few digits")]
    fn note(&self, writer: &mut GgufWriter<'_>, divergences: &[f64]) {
        if self.widths.is_empty() {
            return;
        }
        let widths = self.widths.iter().map(|&width| width as i64).collect();
        let divergences = divergences.iter().map(|&nats| nats as f32).collect();
        writer.key(WIDTHS, Value::Ints(widths));
        writer.key(WIDTHS_DIVERGENCE, Value::Floats(divergences));
    }

    /// Measures every width of the finished `writer` on `tokens` and notes it there.
    pub(crate) fn measure(
        &self,
        source: &TensorSource,
        writer: &mut GgufWriter<'_>,
        tokens: &[u32],
        compute: &Arc<Compute>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<WidthReport>, CompressError> {
        if self.widths.is_empty() {
            return Ok(Vec::new());
        }
        let load = |source: &TensorSource| {
            Stage::load(source, &Part::whole(source.config()), compute, &mut |_| {})
        };
        let given = load(source)?;
        let made = GgufFile::parse(writer.to_bytes())?;
        let mut reports = Vec::with_capacity(self.widths.len());
        for (idx, &neurons) in self.widths.iter().enumerate() {
            let stage = load(&TensorSource::Gguf(made.narrowed(neurons)?))?;
            let options = PerplexityOptions { context: CHUNK, chunks_max: usize::MAX, bos: None };
            let mut told = |done: usize, total: usize, _ppl: f64| {
                let (layers_done, layers) = (idx * total + done, self.widths.len() * total);
                progress(Progress { work: Work::Judging, layers_done, layers });
            };
            let found = perplexity(&stage, Some(&given), tokens, options, &mut told)?;
            reports.push(WidthReport {
                neurons,
                weight_bytes_per_token: stage.weight_bytes_per_token() as u64,
                kl_mean: found.divergence.map_or(f64::NAN, |divergence| divergence.kl_mean),
            });
        }
        let divergences: Vec<f64> = reports.iter().map(|report| report.kl_mean).collect();
        self.note(writer, &divergences);
        Ok(reports)
    }
}
