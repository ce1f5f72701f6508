//! How each tensor of the result is stored.

use std::collections::BTreeMap;

use atoll_model::{BlockType, Compute, GgufWriter, ModelConfig, TensorInfo, TensorSource};

use crate::allocate::{Choice, allocate};
use crate::compress::Progress;
use crate::error::CompressError;
use crate::floats::{KINDS, matrix_name};
use crate::sensitivity::{TYPES, head_name, measure};

/// The embedding's name.
pub(crate) const EMBED: &str = "token_embd.weight";

/// How a matrix is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// As it is.
    Keep,
    /// Rounded to a type.
    Round(BlockType),
}

/// How every matrix is stored.
#[derive(Debug)]
pub(crate) struct Plan {
    ways: BTreeMap<String, Way>,
    /// Whether the head's matrix takes the place of a separate embedding.
    pub(crate) is_tied_anew: bool,
    /// What all of it is expected to cost, in nats of divergence from the model as given.
    pub(crate) expected: Option<f64>,
}

/// A matrix of the result, its choices and what they are.
struct Item {
    name: String,
    ways: Vec<Way>,
    choices: Vec<Choice>,
}

impl Plan {
    /// Layers in `ty` (see [`fallback`]), embedding and head as they are.
    pub(crate) fn layers_in(ty: BlockType, config: &ModelConfig, neurons: usize) -> Self {
        let mut ways = BTreeMap::new();
        for (name, (_, cols)) in matrices(config, neurons) {
            let ty = if cols.is_multiple_of(ty.block_len()) { ty } else { fallback(ty) };
            ways.insert(name, Way::Round(ty));
        }
        for name in [EMBED, head_name(config)] {
            ways.insert(name.to_owned(), Way::Keep);
        }
        Self { ways, is_tied_anew: false, expected: None }
    }

    /// The ways that cost least in a file of at most `bytes_max` with the keys and tensors that
    /// `writer` has and vectors `vectors`; `neurons` of the feed-forward neurons are left.
    ///
    /// # Errors
    /// [`CompressError::Budget`], and as [`measure`].
    pub(crate) fn within(
        bytes_max: u64,
        source: &TensorSource,
        (writer, vectors): (&GgufWriter<'_>, &[TensorInfo]),
        neurons: usize,
        tokens: &[u32],
        compute: &Compute,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, CompressError> {
        let config = source.config();
        let costs = measure(source, tokens, compute, progress)?;
        let mut layers = Vec::new();
        let shapes = matrices(config, neurons).collect::<Vec<_>>();
        for (idx, (name, shape)) in shapes.into_iter().enumerate() {
            let costs = &costs.layers[idx / KINDS.len()][idx % KINDS.len()];
            layers.push(Item::of(source, &name, &name, shape, costs, 0.0)?);
        }
        let shape = (config.vocab_size, config.dim);
        let sum: Vec<f64> = costs.embed.iter().zip(&costs.head).map(|(e, h)| e + h).collect();
        let as_both = Item::of(source, head_name(config), EMBED, shape, &sum, costs.tied)?;
        let mut variants = vec![vec![as_both]];
        if !config.tied {
            variants.push(vec![
                Item::of(source, EMBED, EMBED, shape, &costs.embed, 0.0)?,
                Item::of(source, head_name(config), head_name(config), shape, &costs.head, 0.0)?,
            ]);
        }
        let (mut best, mut least) = (None::<(f64, Self)>, u64::MAX);
        for (idx, tables) in variants.iter().enumerate() {
            let items: Vec<&Item> = layers.iter().chain(tables).collect();
            let (found, least_here) = pick(&items, bytes_max, writer, vectors)?;
            least = least.min(least_here);
            if let Some((cost, ways)) = found
                && best.as_ref().is_none_or(|(least, _)| cost < *least)
            {
                let is_tied_anew = idx == 0 && !config.tied;
                best = Some((cost, Self { ways, is_tied_anew, expected: Some(cost) }));
            }
        }
        best.map(|(_, plan)| plan).ok_or(CompressError::Budget { bytes: bytes_max, least })
    }

    /// How the matrix called `name` is stored.
    pub(crate) fn way(&self, name: &str) -> Way {
        self.ways.get(name).copied().unwrap_or(Way::Keep)
    }

    /// Matrices of every way.
    pub(crate) fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for way in self.ways.values() {
            let name = match way {
                Way::Keep => "as given",
                Way::Round(ty) => ty.name(),
            };
            *counts.entry(name.to_owned()).or_default() += 1;
        }
        counts
    }
}

impl Item {
    /// The matrix `from` of `source`, stored as `name` with `shape`; `given` is what it costs to
    /// keep it, and is added to each of `costs`.
    fn of(
        source: &TensorSource,
        from: &str,
        name: &str,
        shape: (usize, usize),
        costs: &[f64],
        given: f64,
    ) -> Result<Self, CompressError> {
        let info = source.require(from)?.info;
        let mut item = Self { name: name.to_owned(), ways: Vec::new(), choices: Vec::new() };
        // A pruned matrix cannot be kept as it is.
        let keep = ((info.rows, info.cols) == shape).then_some((Way::Keep, info.dtype, given));
        let rounded = TYPES.iter().zip(costs).map(|(&ty, cost)| (Way::Round(ty), ty, given + cost));
        for (way, dtype, cost) in keep.into_iter().chain(rounded) {
            if shape.1.is_multiple_of(dtype.block_len()) {
                let bytes = GgufWriter::stored_bytes(&of_shape(name, dtype, shape));
                item.ways.push(way);
                item.choices.push(Choice { bytes, cost });
            }
        }
        match item.ways.is_empty() {
            true => Err(CompressError::Columns { name: name.to_owned(), cols: shape.1 }),
            false => Ok(item),
        }
    }
}

type Found = Option<(f64, BTreeMap<String, Way>)>;

/// The cheapest ways within `bytes_max` with their cost, and the least bytes possible.
fn pick(
    items: &[&Item],
    bytes_max: u64,
    writer: &GgufWriter<'_>,
    vectors: &[TensorInfo],
) -> Result<(Found, u64), CompressError> {
    // The header is as long whatever the types are.
    let some_type = |item: &&Item| of_shape(&item.name, BlockType::F32, (2, 1));
    let infos: Vec<TensorInfo> =
        vectors.iter().cloned().chain(items.iter().map(some_type)).collect();
    let data: u64 = infos[vectors.len()..].iter().map(GgufWriter::stored_bytes).sum();
    let rest = writer.bytes_with(&infos) - data;
    let choices: Vec<Vec<Choice>> = items.iter().map(|item| item.choices.clone()).collect();
    let smallest = |choices: &Vec<Choice>| choices.iter().map(|choice| choice.bytes).min();
    let least = rest + choices.iter().filter_map(smallest).sum::<u64>();
    let Some(picks) = allocate(&choices, bytes_max.saturating_sub(rest)) else {
        return Ok((None, least));
    };
    let cost = choices.iter().zip(&picks).map(|(choices, &pick)| choices[pick].cost).sum();
    let ways = items.iter().zip(&picks).map(|(item, &pick)| (item.name.clone(), item.ways[pick]));
    Ok((Some((cost, ways.collect())), least))
}

fn of_shape(name: &str, dtype: BlockType, (rows, cols): (usize, usize)) -> TensorInfo {
    TensorInfo { name: name.to_owned(), dtype, rows, cols }
}

/// Names and shapes of all layers' matrices, in the order of [`KINDS`].
fn matrices(
    config: &ModelConfig,
    neurons: usize,
) -> impl Iterator<Item = (String, (usize, usize))> + '_ {
    let (dim, q, kv) = (config.dim, config.q_dim(), config.kv_dim());
    let shapes =
        [(q, dim), (kv, dim), (kv, dim), (dim, q), (neurons, dim), (neurons, dim), (dim, neurons)];
    (0..config.n_layers).flat_map(move |layer_idx| {
        let named = move |(kind, shape)| (matrix_name(layer_idx, kind), shape);
        KINDS.into_iter().zip(shapes).map(named)
    })
}

/// The type of 32 columns that stands in for `ty` where columns are not whole blocks of it.
const fn fallback(ty: BlockType) -> BlockType {
    match ty {
        BlockType::Q2K | BlockType::Q3K | BlockType::IQ4XS => BlockType::IQ4NL,
        BlockType::Q4K => BlockType::Q4_1,
        BlockType::Q5K => BlockType::Q5_1,
        BlockType::Q6K => BlockType::Q8_0,
        BlockType::F32
        | BlockType::F16
        | BlockType::BF16
        | BlockType::Q4_0
        | BlockType::Q4_1
        | BlockType::Q5_0
        | BlockType::Q5_1
        | BlockType::Q8_0
        | BlockType::IQ4NL
        | BlockType::E3
        | BlockType::E4
        | BlockType::E5
        | BlockType::E6 => ty,
    }
}
