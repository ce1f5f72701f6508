//! What `atoll bench` says.

use std::fmt::Write;

use atoll_model::bench::{BenchOptions, BenchReport, Speeds};
use atoll_model::{Compute, KvType};
use serde::Serialize;

/// `atoll.bench/1`
#[derive(Debug, Serialize)]
pub(super) struct Report {
    schema: &'static str,
    model: String,
    kernels: &'static str,
    threads: usize,
    kv: KvType,
    prefill_tokens: usize,
    decode_tokens: usize,
    context: usize,
    /// Wait before each decoded token, not counted.
    pause_ms: u128,
    /// One figure per repetition, as the next ones.
    prefill_tokens_per_s: Vec<f64>,
    decode_tokens_per_s: Vec<f64>,
    batch: usize,
    /// Of all sequences together; absent without `--batch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_tokens_per_s: Option<Vec<f64>>,
    /// Medians of `batch_tokens_per_s` over `decode_tokens_per_s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_over_one: Option<f64>,
    weight_bytes_per_token: usize,
    kv_bytes_per_token: usize,
    macs_per_token: usize,
    /// The median of what was read around each repetition.
    read_bandwidth_bytes_per_s: f64,
    read_bandwidth_1_thread_bytes_per_s: f64,
    int8_peak_macs_per_s: f64,
    /// Weights and cache read per second of decoding, over the bandwidth around each repetition:
    /// the median, the least and the most.
    decode_share_of_read_bandwidth: f64,
    decode_share_min: f64,
    decode_share_max: f64,
    /// Products per second of prefill, over the peak.
    prefill_share_of_int8_peak: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    vs: Option<Versus>,
}

/// Beside another program.
#[derive(Debug, Serialize)]
struct Versus {
    peer: String,
    prefill: Ratio,
    decode: Ratio,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch: Option<Ratio>,
}

/// Speed over the other program's, pair by pair.
#[derive(Debug, Serialize)]
struct Ratio {
    peer_tokens_per_s: Vec<f64>,
    ratio: f64,
    ratio_min: f64,
    ratio_max: f64,
}

impl Ratio {
    fn of(speeds: &Speeds) -> Self {
        let pairs = speeds.tokens_per_s.iter().zip(&speeds.peer_tokens_per_s);
        let ratios: Vec<f64> = pairs.map(|(ours, theirs)| ours / theirs).collect();
        Self {
            peer_tokens_per_s: speeds.peer_tokens_per_s.clone(),
            ratio: median(&ratios),
            ratio_min: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            ratio_max: ratios.iter().copied().fold(0.0, f64::max),
        }
    }
}

impl Report {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    pub(super) fn new(
        model: String,
        compute: &Compute,
        options: BenchOptions,
        found: BenchReport,
        peer: Option<String>,
    ) -> Self {
        let decode = median(&found.decode.tokens_per_s);
        let batch = found.batch.as_ref().map(|batch| median(&batch.tokens_per_s));
        let bytes_per_token = (found.weight_bytes_per_token + found.kv_bytes_per_token) as f64;
        let pairs = found.decode.tokens_per_s.iter().zip(&found.read_bandwidth_bytes_per_s);
        let shares: Vec<f64> =
            pairs.map(|(speed, bandwidth)| bytes_per_token * speed / bandwidth).collect();
        let macs_per_s = found.macs_per_token as f64 * median(&found.prefill.tokens_per_s);
        Self {
            schema: "atoll.bench/1",
            model,
            kernels: compute.kernels.isa().name(),
            threads: found.threads,
            kv: compute.kv,
            prefill_tokens: options.prefill_tokens,
            decode_tokens: options.decode_tokens,
            context: options.context,
            pause_ms: options.pause.as_millis(),
            batch: options.batch,
            batch_over_one: batch.map(|batch| batch / decode),
            weight_bytes_per_token: found.weight_bytes_per_token,
            kv_bytes_per_token: found.kv_bytes_per_token,
            macs_per_token: found.macs_per_token,
            read_bandwidth_bytes_per_s: median(&found.read_bandwidth_bytes_per_s),
            read_bandwidth_1_thread_bytes_per_s: found.read_bandwidth_1_thread_bytes_per_s,
            int8_peak_macs_per_s: found.int8_peak_macs_per_s,
            decode_share_of_read_bandwidth: median(&shares),
            decode_share_min: shares.iter().copied().fold(f64::INFINITY, f64::min),
            decode_share_max: shares.iter().copied().fold(0.0, f64::max),
            prefill_share_of_int8_peak: macs_per_s / found.int8_peak_macs_per_s,
            vs: peer.map(|peer| Versus {
                peer,
                prefill: Ratio::of(&found.prefill),
                decode: Ratio::of(&found.decode),
                batch: found.batch.as_ref().map(Ratio::of),
            }),
            prefill_tokens_per_s: found.prefill.tokens_per_s,
            decode_tokens_per_s: found.decode.tokens_per_s,
            batch_tokens_per_s: found.batch.map(|batch| batch.tokens_per_s),
        }
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let decode = median(&self.decode_tokens_per_s);
        let mut text = format!(
            "prefill    {:.1} tokens/s ({} tokens, {} kernels, {} threads), {:.0} % of the int8 \
             peak of {:.0} G/s\n\
             decode     {decode:.1} tokens/s ({} tokens behind {}), {:.0} % of the read \
             bandwidth ({:.0} to {:.0})\n",
            median(&self.prefill_tokens_per_s),
            self.prefill_tokens,
            self.kernels,
            self.threads,
            self.prefill_share_of_int8_peak * 100.0,
            self.int8_peak_macs_per_s / 1e9,
            self.decode_tokens,
            self.context,
            self.decode_share_of_read_bandwidth * 100.0,
            self.decode_share_min * 100.0,
            self.decode_share_max * 100.0,
        );
        let mut line = |line: String| writeln!(text, "{line}").expect("text takes all");
        if let (Some(together), Some(ratio)) = (&self.batch_tokens_per_s, self.batch_over_one) {
            let (together, n) = (median(together), self.batch);
            line(format!("together   {together:.1} tokens/s of {n} sequences, {ratio:.2} × one's"));
        }
        #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
        let mb = |bytes: usize| bytes as f64 / 1e6;
        line(format!(
            "reading    {:.1} MB of weights and {:.1} MB of cache per token; this memory gives \
             {:.1} GB/s, {:.1} to one thread",
            mb(self.weight_bytes_per_token),
            mb(self.kv_bytes_per_token),
            self.read_bandwidth_bytes_per_s / 1e9,
            self.read_bandwidth_1_thread_bytes_per_s / 1e9,
        ));
        if let Some(vs) = &self.vs {
            let rows = [("prefill", Some(&vs.prefill)), ("decode", Some(&vs.decode))];
            for (name, ratio) in rows.into_iter().chain([("together", vs.batch.as_ref())]) {
                let Some(found) = ratio else { continue };
                line(format!(
                    "{name:<10} {:.2} × {} ({:.2} to {:.2}), which gives {:.1} tokens/s",
                    found.ratio,
                    vs.peer,
                    found.ratio_min,
                    found.ratio_max,
                    median(&found.peer_tokens_per_s),
                ));
            }
        }
        text.truncate(text.trim_end().len());
        text
    }
}

/// The middle value; of an even number the mean of the two in the middle.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n => (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::{Ratio, Speeds, median};

    #[test]
    fn the_middle_value() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[3.0, 1.0, 2.0, 4.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn ratios_are_of_pairs() {
        let speeds = Speeds {
            tokens_per_s: vec![10.0, 30.0, 20.0],
            peer_tokens_per_s: vec![10.0, 10.0, 5.0],
        };
        let found = Ratio::of(&speeds);
        assert_eq!((found.ratio, found.ratio_min, found.ratio_max), (3.0, 1.0, 4.0));
    }
}
