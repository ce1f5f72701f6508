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
    /// What the model as given makes of them, if that is followed.
    given: Option<Given>,
}

/// What the model as given makes of calibration sequences; both (tokens, dim).
#[derive(Debug, Clone)]
struct Given {
    states: Array2<f32>,
    /// The states of the latest layer with its feed-forward block's product, without its bias,
    /// before an encoder's norm.
    sums: Array2<f32>,
}

impl Sequences {
    /// `states` is (sequences * length, dim): the embeddings.
    pub(crate) fn new(states: Array2<f32>, length: usize, rope: RopeTable) -> Self {
        Self { states, length, rope, given: None }
    }

    /// Follows what the model as given makes of them, from here on: they must not have been changed
    /// by what became of it.
    pub(crate) fn follow(&mut self) {
        let states = self.states.clone();
        self.given = Some(Given { sums: states.clone(), states });
    }

    /// Takes what the model as given makes of them, if that is followed, through its `layer`.
    pub(crate) fn follow_through(
        &mut self,
        layer: &FloatLayer,
        config: &ModelConfig,
        compute: &Compute,
    ) {
        let Some(Given { states, .. }) = self.given.take() else { return };
        let mut given = Self { states, length: self.length, rope: self.rope.clone(), given: None };
        let values = given.through_attention(layer, config, compute);
        let sums = given.sums(&values, &layer.down, &compute.pool);
        given.advance(&values, &compute.pool, |neurons, x| {
            layer.after_ffn(config, compute, neurons, x);
        });
        self.given = Some(Given { states: given.states, sums });
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
        let states = self.sums(inputs, matrix, pool);
        let squares = states.rows().into_iter().map(|row| row.dot(&row) / row.len() as f32);
        let weights: Array1<f32> = squares.map(|square| 1.0 / square.max(1e-20).sqrt()).collect();
        self.moments(&(inputs * &weights.insert_axis(Axis(1))), pool)
    }

    /// What `layer`'s feed-forward block is to say, (tokens, dim): what the model as given has
    /// behind it more than what there is before it, if that is followed.
    pub(crate) fn wanted(&self, layer: &FloatLayer) -> Option<Array2<f32>> {
        let mut wanted = &self.given.as_ref()?.sums - &self.states;
        if let Some(encoder) = &layer.encoder {
            wanted += &encoder.down_bias;
        }
        Some(wanted)
    }

    /// The states with the product of `inputs`, (tokens, cols), and `matrix`, (dim, cols), added.
    fn sums(&self, inputs: &Array2<f32>, matrix: &Array2<f32>, pool: &Pool) -> Array2<f32> {
        let mut sums = self.states.clone();
        let sequences = sums.axis_chunks_iter_mut(Axis(0), self.length);
        let mut tasks: Vec<_> =
            sequences.zip(inputs.axis_chunks_iter(Axis(0), self.length)).collect();
        pool.for_each(&mut tasks, |(sum, input)| *sum += &input.dot(&matrix.t()));
        sums
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

#[cfg(test)]
mod tests {
    use atoll_model::rope::Rope;
    use atoll_model::{Architecture, BlockType, GgufFile, Isa, TensorSource, tiny};

    use super::*;

    #[test]
    fn what_is_wanted_ends_where_the_given_model_does() {
        let config = tiny::config(Architecture::Llama);
        let bytes = tiny::random_model(&config, BlockType::F32, 3);
        let source = TensorSource::Gguf(GgufFile::parse(bytes).expect("a whole model"));
        let compute = Compute::new(Isa::detect(), 2).expect("threads");
        let layer = FloatLayer::read(&source, 0).expect("a layer");
        let states = Array2::from_shape_fn((48, config.dim), |(i, j)| ((i * 37 + j) as f32).sin());
        let mut text = Sequences::new(states, 16, Rope::new(&config.rope).table(0..16));
        let mut given = text.clone();
        let values = given.through_attention(&layer, &config, &compute);
        assert!(given.wanted(&layer).is_none(), "nothing is followed");
        given.advance(&values, &compute.pool, |v, x| {
            layer.after_ffn(&config, &compute, v, x);
        });
        text.follow();
        text.advance(&Array2::ones((48, 1)), &compute.pool, |one, x| *x += &(&one * 0.1));
        text.follow_through(&layer, &config, &compute);
        text.through_attention(&layer, &config, &compute);
        let wanted = text.wanted(&layer).expect("it is followed");
        let off = (text.states() + &wanted - given.states()).mapv(f32::abs);
        assert!(off.iter().all(|off| *off < 1e-4), "{off}");
    }
}
