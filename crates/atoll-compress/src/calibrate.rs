//! Takes calibration sequences through a layer, several at a time.

use atoll_model::rope::RopeTable;
use atoll_model::{Compute, ModelConfig};
use ndarray::{Array1, Array2, Axis, s};

use crate::floats::{self, FloatLayer, Inputs};
use crate::gram::Gram;

/// Second moments of the inputs of a layer's products.
#[derive(Debug)]
pub(crate) struct Moments {
    pub(crate) qkv: Gram,
    pub(crate) output: Gram,
    pub(crate) ffn: Gram,
    pub(crate) down: Gram,
}

/// What calibration sequences have become after the layers so far.
#[derive(Debug)]
pub(crate) struct Sequences {
    /// (sequences * length, dim), in order.
    states: Array2<f32>,
    length: usize,
    rope: RopeTable,
}

impl Sequences {
    /// `states` is (sequences * length, dim): the embeddings.
    pub(crate) fn new(states: Array2<f32>, length: usize, rope: RopeTable) -> Self {
        Self { states, length, rope }
    }

    /// Tokens of all sequences.
    pub(crate) fn tokens(&self) -> usize {
        self.states.nrows()
    }

    /// The moments of `layer`'s inputs; the sequences stay where they are.
    pub(crate) fn moments(
        &self,
        layer: &FloatLayer,
        config: &ModelConfig,
        compute: &Compute,
    ) -> Moments {
        let mut moments = Moments {
            qkv: Gram::new(config.dim),
            output: Gram::new(config.q_dim()),
            ffn: Gram::new(config.dim),
            down: Gram::new(layer.down.ncols()),
        };
        let together = compute.pool.threads() * self.length;
        for chunk in self.states.axis_chunks_iter(Axis(0), together) {
            let mut slots: Vec<Option<Inputs>> = Vec::new();
            slots.resize_with(chunk.nrows() / self.length, || None);
            let mut tasks: Vec<_> = slots.iter_mut().enumerate().collect();
            compute.pool.for_each(&mut tasks, |(idx, slot)| {
                let rows = s![*idx * self.length..(*idx + 1) * self.length, ..];
                let mut x = chunk.slice(rows).to_owned();
                **slot = Some(layer.forward(config, compute, &self.rope, &mut x.view_mut()));
            });
            for inputs in slots.into_iter().flatten() {
                moments.qkv.add(inputs.qkv.view(), &compute.pool);
                moments.output.add(inputs.output.view(), &compute.pool);
                moments.ffn.add(inputs.ffn.view(), &compute.pool);
                moments.down.add(inputs.down.view(), &compute.pool);
            }
        }
        moments
    }

    /// The moments of the head's input: the states, normalized.
    pub(crate) fn head_moments(&self, norm: &Array1<f32>, eps: f32, compute: &Compute) -> Gram {
        let mut gram = Gram::new(self.states.ncols());
        for chunk in self.states.axis_chunks_iter(Axis(0), self.length) {
            gram.add(floats::norm(chunk, norm, eps).view(), &compute.pool);
        }
        gram
    }

    /// Takes every sequence through `layer`.
    pub(crate) fn advance(&mut self, layer: &FloatLayer, config: &ModelConfig, compute: &Compute) {
        let rope = &self.rope;
        let sequences = self.states.axis_chunks_iter_mut(Axis(0), self.length);
        compute.pool.for_each(&mut sequences.collect::<Vec<_>>(), |x| {
            layer.forward(config, compute, rope, x);
        });
    }
}
