//! The forward pass once more, for tests: naive, in f64, on dequantized weights, without a cache.
//! It shares no code with the real one beyond the reading of tensors.

use atoll_kernels::RopeStyle;

use crate::config::{ModelConfig, RopeScaling};
use crate::tensor::TensorSource;

type Rows = Vec<Vec<f64>>;

/// Logits after every position of `tokens`, `(n, vocab_size)`.
pub(crate) fn logits(source: &TensorSource, tokens: &[u32]) -> Rows {
    let model = Reference { source, config: source.config() };
    let embed = model.matrix("token_embd.weight");
    let mut x: Rows = tokens.iter().map(|&token| embed[token as usize].clone()).collect();
    for layer_idx in 0..model.config.n_layers {
        model.layer(&format!("blk.{layer_idx}"), &mut x);
    }
    let head = if model.config.tied { embed } else { model.matrix("output.weight") };
    let norm = model.vector("output_norm.weight");
    x.iter().map(|row| product(&head, &model.rms_norm(row, &norm))).collect()
}

struct Reference<'a> {
    source: &'a TensorSource,
    config: &'a ModelConfig,
}

impl Reference<'_> {
    fn layer(&self, name: &str, x: &mut Rows) {
        let (head_dim, n_heads) = (self.config.head_dim, self.config.n_heads);
        let norm = self.vector(&format!("{name}.attn_norm.weight"));
        let normed: Rows = x.iter().map(|row| self.rms_norm(row, &norm)).collect();
        let q = self.heads(name, "q", &normed);
        let k = self.heads(name, "k", &normed);
        let v = self.projected(name, "v", &normed);
        let o = self.matrix(&format!("{name}.attn_output.weight"));
        for (position, row) in x.iter_mut().enumerate() {
            let mut attended = Vec::new();
            for head_idx in 0..n_heads {
                let query = &q[position][head_idx * head_dim..][..head_dim];
                let kv = head_idx / (n_heads / self.config.n_kv_heads) * head_dim;
                let scores: Vec<f64> = (0..=position)
                    .map(|past| dot(query, &k[past][kv..kv + head_dim]))
                    .map(|score| (score / (head_dim as f64).sqrt()).exp())
                    .collect();
                let total: f64 = scores.iter().sum();
                attended.extend((0..head_dim).map(|i| {
                    let sum: f64 = scores.iter().zip(&v).map(|(s, past)| s * past[kv + i]).sum();
                    sum / total
                }));
            }
            add(row, &product(&o, &attended));
        }
        let norm = self.vector(&format!("{name}.ffn_norm.weight"));
        let gate = self.matrix(&format!("{name}.ffn_gate.weight"));
        let up = self.matrix(&format!("{name}.ffn_up.weight"));
        let down = self.matrix(&format!("{name}.ffn_down.weight"));
        for row in x {
            let normed = self.rms_norm(row, &norm);
            let gates = product(&gate, &normed).into_iter().map(|g| g / (1.0 + (-g).exp()));
            let inner: Vec<f64> = gates.zip(product(&up, &normed)).map(|(g, u)| g * u).collect();
            add(row, &product(&down, &inner));
        }
    }

    /// Queries or keys: projected, normalized if the model does, rotated.
    fn heads(&self, name: &str, which: &str, normed: &Rows) -> Rows {
        let mut rows = self.projected(name, which, normed);
        let norm =
            self.config.qk_norm.then(|| self.vector(&format!("{name}.attn_{which}_norm.weight")));
        for (position, row) in rows.iter_mut().enumerate() {
            for head in row.chunks_exact_mut(self.config.head_dim) {
                if let Some(norm) = &norm {
                    head.copy_from_slice(&self.rms_norm(head, norm));
                }
                self.rotate(head, position as f64);
            }
        }
        rows
    }

    fn projected(&self, name: &str, which: &str, normed: &Rows) -> Rows {
        let weight = self.matrix(&format!("{name}.attn_{which}.weight"));
        let mut rows: Rows = normed.iter().map(|row| product(&weight, row)).collect();
        if self.config.qkv_bias {
            let bias = self.vector(&format!("{name}.attn_{which}.bias"));
            rows.iter_mut().for_each(|row| add(row, &bias));
        }
        rows
    }

    fn rotate(&self, head: &mut [f64], position: f64) {
        let rope = &self.config.rope;
        let half = rope.n_dims / 2;
        for i in 0..half {
            let divisor = match &rope.scaling {
                RopeScaling::None => 1.0,
                RopeScaling::Linear { factor } => *factor,
                RopeScaling::Factors { factors } => f64::from(factors[i]),
                RopeScaling::Llama3 { .. } | RopeScaling::Yarn { .. } => {
                    panic!("checked against its own table in rope.rs")
                }
            };
            let frequency = rope.theta.powf(-2.0 * i as f64 / rope.n_dims as f64) / divisor;
            let (sin, cos) = (position * frequency).sin_cos();
            let (a, b) = match rope.style {
                RopeStyle::Norm => (2 * i, 2 * i + 1),
                RopeStyle::Neox => (i, i + half),
            };
            (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[a] * sin + head[b] * cos);
        }
    }

    fn rms_norm(&self, x: &[f64], weight: &[f64]) -> Vec<f64> {
        let mean = dot(x, x) / x.len() as f64;
        let scale = 1.0 / (mean + f64::from(self.config.norm_eps)).sqrt();
        x.iter().zip(weight).map(|(x, w)| x * scale * w).collect()
    }

    fn matrix(&self, name: &str) -> Rows {
        let tensor = self.source.require(name).expect("the test's model is complete");
        let mut values = vec![0.0; tensor.info.rows * tensor.info.cols];
        atoll_kernels::dequantize(tensor.info.dtype, tensor.bytes, &mut values);
        let rows = values.chunks_exact(tensor.info.cols);
        rows.map(|row| row.iter().map(|&value| f64::from(value)).collect()).collect()
    }

    fn vector(&self, name: &str) -> Vec<f64> {
        self.matrix(name).remove(0)
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn product(weight: &Rows, x: &[f64]) -> Vec<f64> {
    weight.iter().map(|row| dot(row, x)).collect()
}

fn add(sum: &mut [f64], values: &[f64]) {
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}
