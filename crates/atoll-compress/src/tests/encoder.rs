//! A tiny encoder, compressed and opened again.

use std::path::Path;

use atoll_model::gguf::{Value, encoder_keys};
use atoll_model::rope::Rope;
use atoll_model::{Encoder, ModelFiles};
use ndarray::{Array2, Axis, s};

use super::*;
use crate::floats::{FloatLayer, first_states, text_ids};
use crate::gram::Gram;
use crate::plan::EMBED;
use crate::probe::{ProbeText, rows_of};
use crate::prune::prune;
use crate::refit::{Wanted, refit};
use crate::sensitivity::{TYPES, measure};
use crate::text::Text;

/// Two layers of width 32 with 64 neurons, which read 20 tokens at most.
fn files() -> ModelFiles {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../atoll-model/tests/golden/encoder");
    ModelFiles::open_any(Path::new(folder)).expect("a whole model")
}

/// 18 tokens that stand between the ends of a text.
fn words(seed: u32) -> Vec<u32> {
    let mixed = |i: u32| (1000 * seed + i).wrapping_mul(2_654_435_761) >> 16;
    (0..18).map(|i| 4 + mixed(i) % 24).collect()
}

fn options(ty: BlockType) -> Options {
    let files = files();
    Options {
        calibration: (0..60).flat_map(words).collect(),
        ends: [files.tokenizer.bos(), files.tokenizer.eos()],
        ..super::options(ty)
    }
}

fn keys(files: &ModelFiles) -> Vec<(String, Value)> {
    encoder_keys(files.source.config(), &files.tokenizer).expect("an encoder's")
}

fn made(options: &Options) -> Result<(GgufFile, Report), CompressError> {
    let (files, compute) = (files(), Arc::new(Compute::new(Isa::detect(), 2).expect("threads")));
    let keys = keys(&files);
    let keys = keys.iter().map(|(key, value)| (key.as_str(), value));
    let (writer, report) = compress(&files.source, keys, options, &compute, &mut |_| {})?;
    Ok((GgufFile::parse(writer.to_bytes()).expect("opens again"), report))
}

fn embedded(source: &TensorSource, words: &[u32]) -> Vec<f32> {
    let compute = Arc::new(Compute::new(Isa::detect(), 1).expect("a thread"));
    let encoder = Encoder::load(source, &compute, &mut |_| {}).expect("loads");
    encoder.embed(&[&[2], words, &[3]].concat()).expect("computes")
}

/// The mean cosine to the model as given over texts that were not calibrated on.
fn nearness(file: GgufFile) -> f32 {
    let (source, given) = (TensorSource::Gguf(file), files().source);
    let cosine = |seed| -> f32 {
        let (a, b) = (embedded(&source, &words(seed)), embedded(&given, &words(seed)));
        a.iter().zip(&b).map(|(a, b)| a * b).sum()
    };
    (100..120).map(cosine).sum::<f32>() / 20.0
}

#[test]
fn layers_in_floats_are_those_that_embed() {
    let (files, compute) = (files(), Compute::new(Isa::detect(), 1).expect("a thread"));
    let (source, config) = (&files.source, files.source.config());
    // Texts of 8, 16 and 6, their ends included; none must see another.
    let tokens = [&words(3)[..15], &words(7)[..15]].concat();
    let rope = Rope::new(&config.rope).table(0..1);
    let ids = text_ids(config, &tokens, tokens.len(), [Some(2), Some(3)]);
    let changed = ids.iter().zip(&tokens).filter(|(id, token)| id != token).count();
    assert_eq!(changed, 6, "the ends of three texts");
    let rows = rows_of(source.require(EMBED).expect("a table"), &ids).expect("its rows");
    let mut x = first_states(source, rows, tokens.len(), &compute).expect("tables");
    for layer_idx in 0..config.n_layers {
        let layer = FloatLayer::read(source, layer_idx).expect("a layer");
        layer.forward(config, &compute, &rope, &mut x.view_mut());
    }
    for (at, end) in [(0, 8), (8, 24), (24, 30)] {
        assert_eq!((ids[at], ids[end - 1]), (2, 3), "its ends");
        let of = x.slice(s![at..end, ..]).sum_axis(Axis(0));
        let of = &of / of.dot(&of).sqrt();
        let want = embedded(source, &ids[at + 1..end - 1]);
        let off = of.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off < 1e-5, "text at {at}: {off}");
    }
}

#[test]
fn rounding_and_pruning_leave_it_near() {
    let (file, report) = made(&options(BlockType::Q8_0)).expect("ok");
    for name in ["token_embd.weight", "blk.1.ffn_up.weight", "blk.0.attn_output.weight"] {
        assert_eq!(file.tensor(name).expect("there").info.dtype, BlockType::Q8_0, "{name}");
    }
    for name in ["position_embd.weight", "token_types.weight"] {
        assert_eq!(file.tensor(name).expect("there").info.dtype, BlockType::F32, "{name}");
    }
    assert_eq!(report.matrices["Q8_0"], 13);
    let (eight, four) = (nearness(file), nearness(made(&options(BlockType::Q4_0)).expect("ok").0));
    assert!(eight > 0.9995 && four > 0.98 && four < eight, "{eight} {four}");
    let blind = Options { calibration: Vec::new(), ..options(BlockType::Q4_0) };
    let blind = nearness(made(&blind).expect("ok").0);
    assert!(blind < four, "{four} with a text, {blind} without");
    let pruned = |method| {
        let pruning = neurons(0.5, method);
        let options = Options { target: Target::AsGiven, pruning, ..options(BlockType::Q8_0) };
        let (file, report) = made(&options).expect("ok");
        assert_eq!((file.config().ffn_dim, report.neurons_after_over_before), (32, 0.5));
        nearness(file)
    };
    let [sobs, flap, magnitude] =
        [PruneMethod::Sobs, PruneMethod::Flap, PruneMethod::Magnitude].map(pruned);
    assert!(sobs > 0.98 && sobs > flap && sobs > magnitude, "{sobs} {flap} {magnitude}");
}

#[test]
fn a_refit_takes_much_of_what_pruning_lost_away() {
    let (files, compute) = (files(), Compute::new(Isa::detect(), 2).expect("threads"));
    let inputs = Array2::from_shape_fn((600, 32), |(i, j)| {
        ((i * (j + 3) * 7919 + j * 31 + i) % 997) as f32 / 300.0 - 1.6
    });
    let given = FloatLayer::read(&files.source, 0).expect("a layer");
    let said = |layer: &FloatLayer| {
        let values = layer.neurons(&compute, inputs.view());
        values.dot(&layer.down.t()) + &layer.encoder.as_ref().expect("an encoder's").down_bias
    };
    let (mut layer, output) = (given.clone(), said(&given));
    let lost = |layer: &FloatLayer| {
        let off = (said(layer) - &output) * layer.gains();
        let all = &output * &layer.gains();
        f64::from((&off * &off).sum() / (&all * &all).sum())
    };
    let mut gram = Gram::new(64);
    gram.add(layer.neurons(&compute, inputs.view()).view(), &compute.pool);
    prune("it", &mut layer, &[32], PruneMethod::Sobs, Some(&gram), &compute.pool).expect("finite");
    let before = lost(&layer);
    let wanted = Wanted { inputs: &inputs, output: &output };
    let told = refit("it", &mut layer, &wanted, &compute).expect("finite");
    let after = lost(&layer);
    assert!(after < 0.7 * before && after > 0.0, "{before} before, {after} after");
    assert!((told - after).abs() < 1e-3 * after, "{told} is said, it is {after}");
    let wrong_bias = |layer: &mut FloatLayer| {
        layer.encoder.as_mut().expect("an encoder's").up_bias += 0.3;
    };
    let wrong_down = |layer: &mut FloatLayer| layer.down *= 0.5;
    for (idx, make_wrong) in [&wrong_bias as &dyn Fn(&mut _), &wrong_down].into_iter().enumerate() {
        let mut layer = given.clone();
        make_wrong(&mut layer);
        let before = lost(&layer);
        refit("it", &mut layer, &wanted, &compute).expect("finite");
        let after = lost(&layer);
        assert!(after < 0.01 * before, "{idx}: {before} before, {after} after");
    }
    let inputs = &inputs * f32::NAN;
    let wanted = Wanted { inputs: &inputs, ..wanted };
    let error = refit("it", &mut layer, &wanted, &compute).expect_err("not finite");
    assert!(matches!(error, CompressError::Inputs(_)), "{error}");
}

#[test]
fn neurons_are_needed_by_what_follows_them() {
    let (files, pool) = (files(), atoll_model::Pool::new(1).expect("a thread"));
    let mut layer = FloatLayer::read(&files.source, 0).expect("a layer");
    let gains = layer.gains();
    let by = |a: &usize, b: &usize| gains[*a].abs().total_cmp(&gains[*b].abs());
    let least = (0..gains.len()).min_by(by).expect("numbers");
    let most = (0..gains.len()).max_by(by).expect("numbers");
    layer.down.fill(0.0);
    layer.down.slice_mut(s![least, ..32]).fill(1.05);
    layer.down.slice_mut(s![most, 32..]).fill(1.0);
    // Columns of a Hadamard matrix: none says anything of another.
    let x = Array2::from_shape_fn((128, 64), |(i, j)| {
        if (i & (j + 1)).count_ones() % 2 == 0 { 1.0 } else { -1.0 }
    });
    let mut gram = Gram::new(64);
    gram.add(x.view(), &pool);
    let kept = prune("it", &mut layer, &[32], PruneMethod::Sobs, Some(&gram), &pool);
    assert_eq!(kept.expect("finite").neurons, (32..64).collect::<Vec<_>>());
}

#[test]
fn an_encoder_pruned_in_two_goes_is_the_same() {
    let folder = std::env::temp_dir().join(format!("atoll-encoder-{}", std::process::id()));
    let pruning = neurons(0.5, PruneMethod::Sobs);
    let plain = Options { target: Target::AsGiven, pruning, ..options(BlockType::Q8_0) };
    let kept = Options { resume: Some(folder.clone()), ..plain.clone() };
    let (files, compute) = (files(), Arc::new(Compute::new(Isa::detect(), 2).expect("threads")));
    let keys = keys(&files);
    let run = |options: &Options, is_cut_off: bool| {
        let keys = keys.iter().map(|(key, value)| (key.as_str(), value));
        let mut progress = |at: crate::Progress| assert!(!is_cut_off || at.layers_done == 0);
        let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            compress(&files.source, keys, options, &compute, &mut progress)
        }));
        made.ok().map(|made| made.expect("ok").0.to_bytes())
    };
    assert!(run(&kept, true).is_none(), "cut off behind the first layer");
    assert_eq!(run(&kept, false), run(&plain, false));
    crate::forget(&folder).expect("removed");
}

#[test]
fn a_bias_makes_up_for_means() {
    let (files, pool) = (files(), atoll_model::Pool::new(1).expect("a thread"));
    let x = Array2::from_shape_fn((300, 64), |(i, j)| {
        j as f32 * 0.1 + ((i * (j + 3) * 7919 + j * 31) % 997) as f32 / 997.0
    });
    let mut gram = Gram::new(64);
    gram.add(x.view(), &pool);
    let mean = |layer: &FloatLayer, x: &Array2<f32>| {
        let bias = &layer.encoder.as_ref().expect("an encoder's").down_bias;
        (x.dot(&layer.down.t()) + bias).mean_axis(Axis(0)).expect("rows")
    };
    for method in [PruneMethod::Sobs, PruneMethod::Flap, PruneMethod::Magnitude] {
        let mut layer = FloatLayer::read(&files.source, 0).expect("a layer");
        let (want, ups) = (mean(&layer, &x), layer.encoder.clone().expect("it").up_bias);
        let kept = prune("it", &mut layer, &[32], method, Some(&gram), &pool).expect("finite");
        let off = mean(&layer, &x.select(Axis(1), &kept.neurons)) - want;
        let off = off.fold(0.0, |most: f32, off| most.max(off.abs()));
        assert_eq!(off < 1e-3, method != PruneMethod::Magnitude, "{method:?}: {off}");
        let left = layer.encoder.expect("it").up_bias;
        assert_eq!(left, ups.select(Axis(0), &kept.neurons));
    }
}

#[test]
fn what_is_foreseen_of_an_encoder_comes() {
    let plain = options(BlockType::Q4K);
    let pruning = neurons(0.5, PruneMethod::Flap);
    for options in [Options { target: Target::AsGiven, pruning, ..plain.clone() }, plain] {
        let (files, (file, report)) = (files(), made(&options).expect("ok"));
        let keys = keys(&files);
        let keys = keys.iter().map(|(key, value)| (key.as_str(), value));
        let seen = crate::foresee(&files.source, keys, &options).expect("possible");
        assert_eq!(seen.file_bytes, file.bytes_len() as u64, "{options:?}");
        assert_eq!(seen.weights_after_over_before, report.weights_after_over_before);
    }
}

#[test]
fn bytes_go_where_they_save_most() {
    let plain = options(BlockType::E4);
    let compute = Compute::new(Isa::detect(), 2).expect("threads");
    let files = files();
    let read = Text::of(&plain, files.source.config()).expect("long enough").calibration;
    let text = ProbeText { tokens: &read, ends: plain.ends };
    let costs = measure(&files.source, text, &compute, &mut |_| {}).expect("measurable");
    // The types between the narrowest and the widest leave a choice.
    for (at, ty) in TYPES.into_iter().enumerate().skip(1).take(3) {
        let alike = made(&options(ty)).expect("ok").0.bytes_len();
        let target = Target::Bytes(alike as u64);
        let (mixed, report) = made(&Options { target, ..plain.clone() }).expect("ok");
        assert!(mixed.bytes_len() <= alike, "within the budget");
        let foreseen = 1.0 - report.cosine_expected.expect("an encoder's");
        let all = costs.layers.iter().flatten().chain([&costs.embed]);
        let in_one: f64 = all.map(|cost| cost[at]).sum();
        assert!(report.matrices.len() > 1, "{report:?}");
        assert!(foreseen < 0.95 * in_one, "{ty:?}: {foreseen} foreseen, {in_one} in one type");
        let lost = f64::from(1.0 - nearness(mixed));
        assert!(lost < foreseen, "{ty:?}: {lost} is lost, {foreseen} was foreseen");
    }
    let target = Target::Bytes(10_000);
    let refused = made(&Options { target, ..options(BlockType::E4) }).expect_err("too few");
    assert!(matches!(refused, CompressError::Budget { bytes: 10_000, .. }), "{refused}");
}

/// The second layer with the first 32 of its 64 neurons.
fn narrower() -> GgufFile {
    let files = files();
    let mut writer = GgufWriter::new();
    for (key, value) in keys(&files) {
        let is_width = key.ends_with("feed_forward_length");
        writer.key(&key, if is_width { Value::Ints(vec![64, 32]) } else { value });
    }
    for spec in files.source.config().all_tensors() {
        let tensor = files.source.require(&spec.name).expect("it is there");
        let (mut values, mut info) = (tensor.dequantize(), tensor.info.clone());
        if spec.name.starts_with("blk.1.ffn_up") {
            values.truncate(values.len() / 2);
            *(if info.rows == 1 { &mut info.cols } else { &mut info.rows }) = 32;
        } else if spec.name == "blk.1.ffn_down.weight" {
            values = values.chunks(64).flat_map(|row| &row[..32]).copied().collect();
            info.cols = 32;
        }
        writer.tensor(info, values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<_>>());
    }
    GgufFile::parse(writer.to_bytes()).expect("a whole model")
}

#[test]
fn layers_of_different_widths_are_compressed_again() {
    let (file, compute) = (narrower(), Arc::new(Compute::new(Isa::detect(), 2).expect("threads")));
    let before: Vec<_> = file.metadata().iter().map(|(k, v)| (k.to_owned(), v.clone())).collect();
    let keys = before.iter().map(|(key, value)| (key.as_str(), value));
    let source = TensorSource::Gguf(file);
    let (writer, report) =
        compress(&source, keys, &options(BlockType::Q8_0), &compute, &mut |_| {}).expect("ok");
    let found = GgufFile::parse(writer.to_bytes()).expect("opens again");
    assert_eq!(found.config().ffn_dims, [64, 32]);
    assert_eq!(report.layers.iter().map(|layer| layer.neurons).collect::<Vec<_>>(), [64, 32]);
    let (a, b) = (embedded(&TensorSource::Gguf(found), &words(5)), embedded(&source, &words(5)));
    let cosine: f32 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
    assert!(cosine > 0.999, "{cosine}");
}

#[test]
fn every_matrix_and_the_embedding_cost_less_with_more_bits() {
    let (files, options) = (files(), options(BlockType::Q8_0));
    let compute = Compute::new(Isa::detect(), 2).expect("threads");
    let text = ProbeText { tokens: &options.calibration, ends: options.ends };
    let costs = measure(&files.source, text, &compute, &mut |_| {}).expect("measurable");
    assert!(costs.layers.iter().all(|layer| layer.len() == 6), "q, k, v, output, up, down");
    for cost in costs.layers.iter().flatten().chain([&costs.embed]) {
        assert!(cost[0] > cost[4] && cost[4] > 0.0 && cost[0] < 1.0, "{cost:?}");
    }
    assert!(costs.tied == 0.0 && costs.head == [0.0; 5], "an encoder has no head");
}

#[test]
fn what_judges_by_the_next_token_is_refused() {
    let refused = |options: &Options| made(options).expect_err("refused").to_string();
    let widths = Options { widths: vec![0.5], ..options(BlockType::Q8_0) };
    assert!(refused(&widths).contains("a choice of widths cannot be had together with an encoder"));
    let own = Options { own_sequences: 1, ..options(BlockType::Q8_0) };
    assert!(refused(&own).contains("a text of the model's own cannot be had together with an"));
    let foreseen = crate::foresee(&files().source, std::iter::empty(), &own).expect_err("refused");
    assert_eq!(foreseen.to_string(), refused(&own), "a dry run says so, too");
    let unknown = Options { calibration: vec![99; 600], ..options(BlockType::Q8_0) };
    assert!(refused(&unknown).contains("99"), "{}", refused(&unknown));
}

#[test]
fn of_what_another_model_wrote_fewer_tokens_are_drawn() {
    let given = options(BlockType::Q8_0);
    let text =
        |options: &Options| Text::of(options, files().source.config()).map(|text| text.calibration);
    let drawn = text(&given).expect("long enough");
    let same = given.calibration.clone();
    let both = Options { own_sequences: 2, written: Some(same.clone()), ..given.clone() };
    let read = text(&both).expect("long enough");
    assert_eq!((read.len(), &read[..1024]), (2048, &drawn[..]));
    let kept = |part: &[u32]| part.iter().zip(&same).filter(|(a, b)| a == b).count();
    let (of_given, of_written) = (kept(&read[..1024]), kept(&read[1024..]));
    // 0.4 and 0.8 of 1,024, but for chance.
    assert!(of_given < 460 && of_written > 780 && of_written < 860, "{of_given}, {of_written}");
    let is_other = |i: usize| read[i] == same[i] && read[1024 + i] != same[i];
    assert!((0..1024).any(is_other), "others are drawn than of the given text");
    let alone = Options { own_sequences: 1, calibration: Vec::new(), ..both };
    let alone_read = text(&alone).expect("long enough");
    assert_eq!(alone_read.len(), 512);
    assert!((385..435).contains(&kept(&alone_read)), "{}", kept(&alone_read));
    let (_, report) = made(&alone).expect("ok");
    assert_eq!(report.calibration_tokens, 512);
    let short = Options { written: Some(vec![5; 511]), ..alone };
    let refused = made(&short).expect_err("too short").to_string();
    assert!(refused.contains("511"), "{refused}");
}
