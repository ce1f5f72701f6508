//! Takes calibration sequences through a layer, one product at a time, so that each product's
//! inputs are those that the products before it leave once they are rounded.

use atoll_model::rope::RopeTable;
use atoll_model::{Compute, ModelConfig, Pool};
use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut2, Axis};

use crate::floats::{self, FloatLayer};
use crate::gram::Gram;

/// What calibration sequences have become after the layers so far.
#[derive(Debug, Clone)]
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

    /// What they are now, (tokens, dim).
    pub(crate) const fn states(&self) -> &Array2<f32> {
        &self.states
    }

    /// Goes on from `states`, (tokens, dim).
    ///
    /// # Panics
    /// If they are not as many.
    pub(crate) fn resume(&mut self, states: Array2<f32>) {
        assert_eq!(states.dim(), self.states.dim(), "states of the same text");
        self.states = states;
    }

    /// Tokens of all sequences.
    pub(crate) fn tokens(&self) -> usize {
        self.states.nrows()
    }

    /// What goes into q, k and v of `layer`, (tokens, dim).
    pub(crate) fn attention_inputs(
        &self,
        layer: &FloatLayer,
        config: &ModelConfig,
        pool: &Pool,
    ) -> Array2<f32> {
        let input = |x: ArrayView2<'_, f32>| layer.attention_input(config, x);
        self.each(&self.states, config.dim, pool, input)
    }

    /// What goes into `layer`'s output of attention, (tokens, q_dim), of what
    /// [`Self::attention_inputs`] gives.
    pub(crate) fn attended(
        &self,
        layer: &FloatLayer,
        inputs: &Array2<f32>,
        config: &ModelConfig,
        compute: &Compute,
    ) -> Array2<f32> {
        self.each(inputs, config.q_dim(), &compute.pool, |x| {
            layer.attention(config, compute, &self.rope, x)
        })
    }

    /// Takes the states through `layer`'s attention; returns what goes into down, (tokens,
    /// ffn_dim).
    pub(crate) fn through_attention(
        &mut self,
        layer: &FloatLayer,
        config: &ModelConfig,
        compute: &Compute,
    ) -> Array2<f32> {
        let inputs = self.attention_inputs(layer, config, &compute.pool);
        let attended = self.attended(layer, &inputs, config, compute);
        self.advance(&attended, &compute.pool, |output, x| {
            layer.after_attention(config, compute, output, x);
        });
        let inputs = self.ffn_inputs(layer, config, &compute.pool);
        self.neurons(layer, &inputs, compute)
    }

    /// What goes into gate and up of `layer`, (tokens, dim).
    pub(crate) fn ffn_inputs(
        &self,
        layer: &FloatLayer,
        config: &ModelConfig,
        pool: &Pool,
    ) -> Array2<f32> {
        self.each(&self.states, config.dim, pool, |x| layer.ffn_input(config, x))
    }

    /// What goes into down of `layer`, (tokens, ffn_dim), of [`Self::ffn_inputs`].
    pub(crate) fn neurons(
        &self,
        layer: &FloatLayer,
        inputs: &Array2<f32>,
        compute: &Compute,
    ) -> Array2<f32> {
        self.each(inputs, layer.up.nrows(), &compute.pool, |x| layer.neurons(compute, x))
    }

    /// Takes the states, (tokens, dim), on by `step`, which is given the same rows of `inputs`,
    /// (tokens, cols).
    pub(crate) fn advance(
        &mut self,
        inputs: &Array2<f32>,
        pool: &Pool,
        step: impl Fn(ArrayView2<'_, f32>, &mut ArrayViewMut2<'_, f32>) + Sync,
    ) {
        let states = self.states.axis_chunks_iter_mut(Axis(0), self.length);
        let mut tasks: Vec<_> = states.zip(inputs.axis_chunks_iter(Axis(0), self.length)).collect();
        pool.for_each(&mut tasks, |(x, input)| step(*input, x));
    }

    /// The second moments of some inputs, (tokens, cols).
    pub(crate) fn moments(&self, inputs: &Array2<f32>, pool: &Pool) -> Gram {
        let mut gram = Gram::new(inputs.ncols());
        for chunk in inputs.axis_chunks_iter(Axis(0), self.length) {
            gram.add(chunk, pool);
        }
        gram
    }

    /// The moments of `values`, which go into `layer`'s down projection, by which structured OBS
    /// judges neurons. An encoder's states are all normalized, so that its tokens weigh alike.
    pub(crate) fn moments_of_neurons(
        &self,
        layer: &FloatLayer,
        values: &Array2<f32>,
        pool: &Pool,
    ) -> Gram {
        match layer.encoder {
            Some(_) => self.moments(values, pool),
            None => self.moments_by_state(values, &layer.down, pool),
        }
    }

    /// As [`Self::moments`] of the inputs of `matrix`, (dim, cols), whose product is added to the
    /// states: each token weighs one over the mean square that its state has then. What follows is
    /// given normalized states, so an error costs what it is of its state; and of a few tokens,
    /// such as the first, both are thousands of times as large as of all others.
    pub(crate) fn moments_by_state(
        &self,
        inputs: &Array2<f32>,
        matrix: &Array2<f32>,
        pool: &Pool,
    ) -> Gram {
        let mut weighed = inputs.clone();
        let states = self.states.axis_chunks_iter(Axis(0), self.length);
        let mut tasks: Vec<_> =
            states.zip(weighed.axis_chunks_iter_mut(Axis(0), self.length)).collect();
        pool.for_each(&mut tasks, |(state, x)| {
            let mut after = x.dot(&matrix.t());
            after += &*state;
            for (mut row, after) in x.rows_mut().into_iter().zip(after.rows()) {
                let square = after.dot(&after) / after.len() as f32;
                row *= 1.0 / square.max(1e-20).sqrt();
            }
        });
        self.moments(&weighed, pool)
    }

    /// The moments of the head's input: the states, normalized.
    pub(crate) fn head_moments(&self, norm: &Array1<f32>, eps: f32, pool: &Pool) -> Gram {
        let input = |x: ArrayView2<'_, f32>| floats::norm(x, norm, eps);
        self.moments(&self.each(&self.states, self.states.ncols(), pool, input), pool)
    }

    /// What `step` makes of each sequence of `from`: (tokens, cols).
    fn each(
        &self,
        from: &Array2<f32>,
        cols: usize,
        pool: &Pool,
        step: impl Fn(ArrayView2<'_, f32>) -> Array2<f32> + Sync,
    ) -> Array2<f32> {
        let mut to = Array2::zeros((from.nrows(), cols));
        let mut tasks: Vec<_> = from
            .axis_chunks_iter(Axis(0), self.length)
            .zip(to.axis_chunks_iter_mut(Axis(0), self.length))
            .collect();
        pool.for_each(&mut tasks, |(from, to)| to.assign(&step(*from)));
        to
    }
}
