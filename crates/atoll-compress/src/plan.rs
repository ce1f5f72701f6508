//! How each tensor of the result is stored.

use std::collections::BTreeMap;

use atoll_model::{BlockType, Compute, GgufWriter, ModelConfig, TensorInfo, TensorSource};

use crate::allocate::{Choice, allocate};
use crate::compress::Progress;
use crate::cut::Cut;
use crate::error::CompressError;
use crate::grid::Shape;
use crate::probe::{ProbeText, head_name};
use crate::sensitivity::{Costs, TYPES, measure};

/// The embedding's name.
pub(crate) const EMBED: &str = "token_embd.weight";

/// How a matrix is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// As it is; of a matrix whose rows are neurons, those that stay.
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
    /// Layers in `ty` (see [`fallback`]), an encoder's embedding of tokens, too; embedding and head
    /// of a decoder as they are.
    ///
    /// # Errors
    /// [`CompressError::Type`] for floats.
    pub(crate) fn layers_in(ty: BlockType, config: &ModelConfig) -> Result<Self, CompressError> {
        if Shape::of(ty).is_none() {
            return Err(CompressError::Type(ty));
        }
        let fitting = |cols: usize| match cols.is_multiple_of(ty.block_len()) {
            true => Way::Round(ty),
            false => Way::Round(fallback(ty)),
        };
        let mut ways = BTreeMap::new();
        for (name, (_, cols)) in matrices(config) {
            ways.insert(name, fitting(cols));
        }
        for name in [EMBED, head_name(config)] {
            let way = if config.encoder.is_some() { fitting(config.dim) } else { Way::Keep };
            ways.insert(name.to_owned(), way);
        }
        Ok(Self { ways, is_tied_anew: false, expected: None })
    }

    /// Everything in the type that it has; only what `cut` changes is rounded again. Where single
    /// weights become 0 and the type has no 0, it is Q8_0.
    ///
    /// # Errors
    /// A missing tensor.
    pub(crate) fn as_given(source: &TensorSource, cut: &Cut) -> Result<Self, CompressError> {
        let config = source.config();
        let mut ways = BTreeMap::new();
        for (name, _) in matrices(config) {
            let dtype = source.require(&name)?.info.dtype;
            let has_zero = Shape::of(dtype).is_none_or(|shape| shape.has_zero());
            let way = match cut {
                Cut::Weights(_) if has_zero => Way::Round(dtype),
                Cut::Weights(_) => Way::Round(BlockType::Q8_0),
                Cut::Neurons { .. } if cut.changes(&name, config) => Way::Round(dtype),
                Cut::Neurons { .. } | Cut::Nothing => Way::Keep,
            };
            ways.insert(name, way);
        }
        for name in [EMBED, head_name(config)] {
            ways.insert(name.to_owned(), Way::Keep);
        }
        Ok(Self { ways, is_tied_anew: false, expected: None })
    }

    /// Checks that every matrix that is rounded can hold a 0.
    ///
    /// # Errors
    /// [`CompressError::NoZero`].
    pub(crate) fn check_zeros(&self) -> Result<(), CompressError> {
        let rounded = self.ways.values().filter_map(|way| match way {
            Way::Round(ty) => Some(*ty),
            Way::Keep => None,
        });
        let without = |ty: &BlockType| Shape::of(*ty).is_some_and(|shape| !shape.has_zero());
        rounded.into_iter().find(without).map_or(Ok(()), |ty| Err(CompressError::NoZero(ty)))
    }

    /// The ways that cost least in a file of at most `bytes_max` with the keys and tensors that
    /// `writer` has and those that are `copied`; `cut` is what is taken from the layers.
    ///
    /// # Errors
    /// [`CompressError::Budget`], before it is measured what matrices cost, and as [`measure`].
    pub(crate) fn within(
        bytes_max: u64,
        source: &TensorSource,
        kept: (&GgufWriter<'_>, &[TensorInfo]),
        cut: &Cut,
        text: ProbeText<'_>,
        compute: &Compute,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, CompressError> {
        let config = source.config();
        let matrices = |idx| config.layer_tensors(idx).iter().filter(|spec| spec.rows > 1).count();
        let unknown = Costs::unknown((0..config.n_layers).map(matrices));
        Self::cheapest(bytes_max, source, kept, cut, &unknown)?;
        let costs = measure(source, text, compute, progress)?;
        Self::cheapest(bytes_max, source, kept, cut, &costs)
    }

    /// The same, where matrices cost what `costs` says.
    ///
    /// # Errors
    /// [`CompressError::Budget`], and a missing tensor.
    fn cheapest(
        bytes_max: u64,
        source: &TensorSource,
        (writer, copied): (&GgufWriter<'_>, &[TensorInfo]),
        cut: &Cut,
        costs: &Costs,
    ) -> Result<Self, CompressError> {
        let config = source.config();
        let mut layers = Vec::new();
        let shapes = matrices(&cut.result(config)).collect::<Vec<_>>();
        for ((name, shape), costs) in shapes.into_iter().zip(costs.layers.iter().flatten()) {
            let mut item = Item::of(source, &name, &name, shape, costs, 0.0)?;
            if matches!(cut, Cut::Neurons { .. }) && cut.changes(&name, config) {
                item.refuse_as_given();
                item.check(shape.1)?;
            }
            layers.push(item);
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
            let (found, least_here) = pick(&items, bytes_max, writer, copied)?;
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

    /// As text, to be read again by [`Self::parse`].
    pub(crate) fn to_text(&self) -> String {
        let bits = self.expected.map_or_else(|| "-".to_owned(), |cost| cost.to_bits().to_string());
        let mut text = format!("{} {bits}\n", self.is_tied_anew);
        for (name, way) in &self.ways {
            let way = match way {
                Way::Keep => "-",
                Way::Round(ty) => ty.name(),
            };
            text.extend([way, " ", name, "\n"]);
        }
        text
    }

    /// What [`Self::to_text`] wrote.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (first, rest) = text.split_once('\n')?;
        let (is_tied_anew, bits) = first.split_once(' ')?;
        let expected = match bits {
            "-" => None,
            bits => Some(f64::from_bits(bits.parse().ok()?)),
        };
        let ways = rest.lines().map(|line| {
            let (way, name) = line.split_once(' ')?;
            let way = match way {
                "-" => Way::Keep,
                ty => Way::Round(BlockType::all().find(|known| known.name() == ty)?),
            };
            Some((name.to_owned(), way))
        });
        let ways = ways.collect::<Option<_>>()?;
        Some(Self { ways, is_tied_anew: is_tied_anew.parse().ok()?, expected })
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
        // Of whole rows some can be kept as they are.
        let keep = (info.cols == shape.1).then_some((Way::Keep, info.dtype, given));
        let rounded = TYPES.iter().zip(costs).map(|(&ty, cost)| (Way::Round(ty), ty, given + cost));
        for (way, dtype, cost) in keep.into_iter().chain(rounded) {
            if shape.1.is_multiple_of(dtype.block_len()) {
                let bytes = GgufWriter::stored_bytes(&of_shape(name, dtype, shape));
                item.ways.push(way);
                item.choices.push(Choice { bytes, cost });
            }
        }
        item.check(shape.1)?;
        Ok(item)
    }

    /// Refuses a matrix of `cols` columns for which no way is left.
    fn check(&self, cols: usize) -> Result<(), CompressError> {
        match self.ways.is_empty() {
            true => Err(CompressError::Columns { name: self.name.clone(), cols }),
            false => Ok(()),
        }
    }

    /// Takes away the choice to leave it as it is: its numbers change.
    fn refuse_as_given(&mut self) {
        if self.ways.first() == Some(&Way::Keep) {
            self.ways.remove(0);
            self.choices.remove(0);
        }
    }
}

type Found = Option<(f64, BTreeMap<String, Way>)>;

/// The cheapest ways within `bytes_max` with their cost, and the least bytes possible.
fn pick(
    items: &[&Item],
    bytes_max: u64,
    writer: &GgufWriter<'_>,
    copied: &[TensorInfo],
) -> Result<(Found, u64), CompressError> {
    // The header is as long whatever the types are.
    let some_type = |item: &&Item| of_shape(&item.name, BlockType::F32, (2, 1));
    let infos: Vec<TensorInfo> =
        copied.iter().cloned().chain(items.iter().map(some_type)).collect();
    let data: u64 = infos[copied.len()..].iter().map(GgufWriter::stored_bytes).sum();
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

/// Names and shapes of all layers' matrices, in their order.
fn matrices(config: &ModelConfig) -> impl Iterator<Item = (String, (usize, usize))> + '_ {
    let layers = (0..config.n_layers).flat_map(move |layer_idx| config.layer_tensors(layer_idx));
    layers.filter(|spec| spec.rows > 1).map(|spec| (spec.name, (spec.rows, spec.cols)))
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use atoll_model::{Architecture, Isa};

    use super::*;
    use crate::compress::{Options, Target, compress};
    use crate::tests::{model, options};

    #[test]
    fn too_few_bytes_are_refused_before_costs_are_measured() {
        let file = model(Architecture::Qwen2);
        let keys = file.metadata().clone();
        let source = TensorSource::Gguf(file);
        let options = Options { target: Target::Bytes(10_000), ..options(BlockType::Q8_0) };
        let compute = Arc::new(Compute::new(Isa::detect(), 1).expect("a thread"));
        let mut steps = 0;
        let made = compress(&source, keys.iter(), &options, &compute, &mut |_| steps += 1);
        assert!(matches!(made, Err(CompressError::Budget { bytes: 10_000, .. })));
        assert_eq!(steps, 0, "refused at once");
    }
}
