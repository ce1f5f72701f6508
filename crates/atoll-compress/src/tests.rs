//! Whole tiny models, compressed and opened again.

mod elastic;
mod encoder;
mod own_text;

use std::sync::Arc;

use atoll_model::{
    Architecture, BlockType, Compute, GgufFile, GgufWriter, Isa, Part, Stage, StageInput,
    TensorSource, tiny,
};

use crate::{
    CompressError, Options, Pattern, PruneMethod, Pruning, Report, SparseMethod, Sparsity, Target,
    compress,
};

pub(crate) fn model(architecture: Architecture) -> GgufFile {
    let bytes = tiny::random_model(&tiny::config(architecture), BlockType::F32, 7);
    GgufFile::parse(bytes).expect("a whole model")
}

fn text() -> Vec<u32> {
    (0..1100u32).map(|i| (i * i * 31 + i * 7) % 300).collect()
}

pub(crate) fn options(ty: BlockType) -> Options {
    Options {
        target: Target::Type(ty),
        pruning: Pruning::Nothing,
        widths: Vec::new(),
        calibration: text(),
        ends: [None; 2],
        sequences_max: 2,
        own_sequences: 0,
        written: None,
        judged_by: Vec::new(),
        resume: None,
    }
}

fn neurons(share: f32, method: PruneMethod) -> Pruning {
    Pruning::Neurons { share, method, alike: true }
}

fn compressed(file: GgufFile, options: &Options) -> Result<(GgufFile, Report), CompressError> {
    let compute = Arc::new(Compute::new(Isa::detect(), 2).expect("threads"));
    let metadata = file.metadata().clone();
    let source = TensorSource::Gguf(file);
    let (writer, report) =
        compress(&source, metadata.iter(), options, &compute, &mut |_progress| {})?;
    Ok((GgufFile::parse(writer.to_bytes()).expect("opens again"), report))
}

#[test]
fn what_is_foreseen_comes() {
    let nothing = Pruning::Nothing;
    let wanda = Sparsity { pattern: Pattern::Share(0.5), method: SparseMethod::Wanda };
    let cases = [
        (Target::AsGiven, neurons(0.25, PruneMethod::Flap), vec![0.5]),
        (Target::Type(BlockType::Q8_0), nothing, vec![]),
        (Target::Type(BlockType::Q8_0), Pruning::Weights(wanda), vec![]),
    ];
    for (target, pruning, widths) in cases {
        let options = Options { target, pruning, widths, ..options(BlockType::Q8_0) };
        let file = model(Architecture::Qwen2);
        let metadata = file.metadata().clone();
        let source = TensorSource::Gguf(file);
        let seen = crate::foresee(&source, metadata.iter(), &options).expect("possible");
        let (made, report) = compressed(model(Architecture::Qwen2), &options).expect("ok");
        assert_eq!(seen.file_bytes, made.bytes_len() as u64, "{options:?}");
        assert_eq!(seen.neurons_after_over_before, report.neurons_after_over_before);
        let off = seen.weights_after_over_before - report.weights_after_over_before;
        assert!(off.abs() < 1e-3, "{off}: {options:?}");
        assert_eq!(seen.calibration_tokens, report.calibration_tokens);
    }
}

/// The last row of the layers, for 40 tokens.
fn last_row(file: GgufFile) -> Vec<f32> {
    let compute = Arc::new(Compute::new(Isa::detect(), 1).expect("threads"));
    let source = TensorSource::Gguf(file);
    let part = Part::whole(source.config());
    let stage = Stage::load(&source, &part, &compute, &mut |_progress| {}).expect("loads");
    let mut kv = stage.new_kv_cache(64);
    stage.forward(&mut kv, StageInput::Tokens(&text()[..40]), 0).expect("computes").row(39).to_vec()
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    let square = |x: &mut dyn Iterator<Item = f32>| x.map(|v| v * v).sum::<f32>();
    square(&mut a.iter().zip(b).map(|(a, b)| a - b)) / square(&mut b.iter().copied())
}

#[test]
fn every_architecture_survives_eight_bits() {
    for architecture in [Architecture::Llama, Architecture::Qwen2, Architecture::Qwen3] {
        let (file, report) =
            compressed(model(architecture), &options(BlockType::Q8_0)).expect("ok");
        let off = distance(&last_row(file), &last_row(model(architecture)));
        // Of which 1e-3 is the rounding of activations to int8, that f32 weights do without.
        assert!(off < 5e-3, "{architecture:?}: {off}");
        assert!(report.bits_after < report.bits_before);
    }
}

#[test]
fn fewer_bits_lose_more_and_text_loses_less() {
    let want = last_row(model(Architecture::Llama));
    let off = |options: &Options| {
        let (file, _) = compressed(model(Architecture::Llama), options).expect("ok");
        distance(&last_row(file), &want)
    };
    let (eight, five, four) = (
        off(&options(BlockType::Q8_0)),
        off(&options(BlockType::Q5_1)),
        off(&options(BlockType::Q4_0)),
    );
    assert!(eight < five && five < four, "{eight} {five} {four}");
    let blind = off(&Options { calibration: Vec::new(), ..options(BlockType::Q4_0) });
    assert!(four < blind, "{four} with a text, {blind} without");
}

#[test]
fn pruned_models_are_narrower_and_say_so() {
    for method in [PruneMethod::Sobs, PruneMethod::Flap, PruneMethod::Magnitude] {
        let options = Options { pruning: neurons(0.25, method), ..options(BlockType::Q8_0) };
        let (file, report) = compressed(model(Architecture::Qwen2), &options).expect("ok");
        assert_eq!(file.config().ffn_dim, 96);
        assert!((report.neurons_after_over_before - 0.75).abs() < 1e-9);
        assert!(last_row(file).iter().all(|value| value.is_finite()));
    }
}

#[test]
fn a_number_of_bytes_is_kept_and_spent_well() {
    let want = last_row(model(Architecture::Llama));
    let within = |bytes| {
        let options = Options { target: Target::Bytes(bytes), ..options(BlockType::Q4_0) };
        compressed(model(Architecture::Llama), &options)
    };
    let Err(CompressError::Budget { least, .. }) = within(1000) else {
        panic!("1000 bytes are too few");
    };
    assert!(matches!(within(least - 1), Err(CompressError::Budget { .. })));
    let mut before = f32::INFINITY;
    for bytes in [least, least * 4 / 3, least * 2, least * 3] {
        let (file, report) = within(bytes).expect("enough");
        let size = file.bytes_len() as u64;
        assert!(size <= bytes && size * 10 >= bytes * 9, "{size} of {bytes}: {report:?}");
        let off = distance(&last_row(file), &want);
        assert!(off < before, "{bytes}: {off} after {before}");
        before = off;
    }
    // What is given is exact.
    let (file, report) = within(model(Architecture::Llama).bytes_len() as u64).expect("enough");
    assert_eq!(last_row(file), want);
    assert_eq!(report.matrices.keys().collect::<Vec<_>>(), ["as given"]);
}

#[test]
fn one_table_serves_twice_where_two_are_alike() {
    let given = model(Architecture::Qwen2);
    let (table, mut writer) = ("output.weight", GgufWriter::new());
    for (key, value) in given.metadata().iter() {
        writer.key(key, value.clone());
    }
    for info in given.tensors() {
        let from = if info.name == "token_embd.weight" { table } else { &info.name };
        writer.tensor(info.clone(), given.tensor(from).expect("it is there").bytes);
    }
    let alike = writer.to_bytes();
    let open = || GgufFile::parse(alike.clone()).expect("a whole model");
    let bytes = (alike.len() - given.tensor(table).expect("the head").bytes.len() / 2) as u64;
    let options = Options { target: Target::Bytes(bytes), ..options(BlockType::Q4_0) };
    let (file, report) = compressed(open(), &options).expect("enough");
    assert!(report.is_tied_anew && file.config().tied && file.tensor(table).is_none());
    assert_eq!(last_row(file), last_row(open()));
    let (_, report) = compressed(given, &options).expect("enough");
    assert!(!report.is_tied_anew, "its embedding and head are nothing alike");
}

#[test]
fn what_cannot_be_made_is_refused() {
    let refused = |options: Options| {
        compressed(model(Architecture::Llama), &options).expect_err("refused").to_string()
    };
    let plain = || options(BlockType::Q4_0);
    let short = refused(Options { calibration: vec![1; 100], ..plain() });
    assert!(short.contains("100 tokens, at least 512"), "{short}");
    let share = refused(Options { pruning: neurons(1.0, PruneMethod::Sobs), ..plain() });
    assert!(share.contains("1 of the neurons"), "{share}");
    let blind = refused(Options {
        calibration: vec![],
        pruning: neurons(0.5, PruneMethod::Sobs),
        ..plain()
    });
    assert!(blind.contains("needs a calibration text"), "{blind}");
    assert!(refused(options(BlockType::F16)).contains("F16"));
    let blind = Options { calibration: vec![], target: Target::Bytes(1 << 30), ..plain() };
    assert!(refused(blind).contains("a budget of bytes needs a calibration text"));
}

#[test]
fn the_same_bytes_come_out_again() {
    let bytes = |threads| {
        let compute = Arc::new(Compute::new(Isa::detect(), threads).expect("threads"));
        let file = model(Architecture::Llama);
        let metadata = file.metadata().clone();
        let source = TensorSource::Gguf(file);
        let options =
            Options { pruning: neurons(0.25, PruneMethod::Sobs), ..options(BlockType::Q4_0) };
        let done = compress(&source, metadata.iter(), &options, &compute, &mut |_progress| {});
        done.expect("ok").0.to_bytes()
    };
    assert_eq!(bytes(1), bytes(2));
}

#[test]
fn weights_that_are_removed_stay_zero_in_the_result() {
    let sparse = |method, ty| {
        let pattern = match method {
            SparseMethod::SparseGpt => Pattern::Group { kept: 2, of: 4 },
            SparseMethod::Magnitude | SparseMethod::Wanda => Pattern::Share(0.5),
        };
        let pruning = Pruning::Weights(Sparsity { pattern, method });
        Options { pruning, ..options(ty) }
    };
    for method in [SparseMethod::Magnitude, SparseMethod::Wanda, SparseMethod::SparseGpt] {
        let (file, report) =
            compressed(model(Architecture::Qwen2), &sparse(method, BlockType::Q8_0)).expect("ok");
        let (mut all, mut zeros) = (0, 0);
        for spec in file.config().all_tensors().collect::<Vec<_>>() {
            let values = file.tensor(&spec.name).expect("it is there").dequantize();
            all += values.len();
            if spec.name.starts_with("blk.") && spec.rows > 1 {
                let here = values.iter().filter(|value| **value == 0.0).count();
                assert!(here * 2 >= values.len(), "{method:?} {}: {here}", spec.name);
                zeros += here;
            }
        }
        let want = 1.0 - zeros as f64 / all as f64;
        assert!((report.weights_after_over_before - want).abs() < 1e-9, "{method:?}");
    }
    let (_, given) = compressed(
        model(Architecture::Qwen2),
        &Options { target: Target::AsGiven, ..sparse(SparseMethod::Wanda, BlockType::Q8_0) },
    )
    .expect("floats hold 0");
    assert!(given.matrices.contains_key("F32"), "{given:?}");
    let refused = |options| compressed(model(Architecture::Qwen2), &options).expect_err("refused");
    let no_zero = refused(sparse(SparseMethod::Wanda, BlockType::Q4_1));
    assert!(matches!(no_zero, CompressError::NoZero(BlockType::Q4_1)), "{no_zero}");
    let blind = Options { calibration: vec![], ..sparse(SparseMethod::Wanda, BlockType::Q8_0) };
    assert!(matches!(refused(blind), CompressError::NeedsText(_)));
    let both = Options { widths: vec![0.5], ..sparse(SparseMethod::Wanda, BlockType::Q8_0) };
    assert!(matches!(refused(both), CompressError::Together(..)));
}

/// A model of whose layer 2 the down projection is a hundredth of the others'.
fn model_with_a_quiet_layer() -> GgufFile {
    let given = model(Architecture::Llama);
    let mut writer = GgufWriter::new();
    for (key, value) in given.metadata().iter() {
        writer.key(key, value.clone());
    }
    for info in given.tensors() {
        let tensor = given.tensor(&info.name).expect("it is there");
        let by = if info.name == "blk.2.ffn_down.weight" { 0.01 } else { 1.0 };
        let values = tensor.dequantize().into_iter().map(|value| value * by);
        writer.tensor(info.clone(), values.flat_map(f32::to_le_bytes).collect::<Vec<_>>());
    }
    GgufFile::parse(writer.to_bytes()).expect("a whole model")
}

#[test]
fn the_layer_that_matters_least_keeps_least() {
    for method in [PruneMethod::Sobs, PruneMethod::Flap, PruneMethod::Magnitude] {
        let pruning = Pruning::Neurons { share: 0.3, method, alike: false };
        let options = Options { pruning, ..options(BlockType::Q8_0) };
        let (file, report) = compressed(model_with_a_quiet_layer(), &options).expect("ok");
        let config = file.config();
        let kept: Vec<usize> = (0..config.n_layers).map(|idx| config.ffn_dim_of(idx)).collect();
        // Of 512 stay 358 in all, of 128 in each layer 90: whole blocks of 32.
        let all = if method == PruneMethod::Magnitude { 4 * 96 } else { 352 };
        assert_eq!(kept.iter().sum::<usize>(), all, "{method:?}: {kept:?}");
        assert!((report.neurons_after_over_before - all as f64 / 512.0).abs() < 1e-9);
        assert_eq!(report.layers.iter().map(|layer| layer.neurons).collect::<Vec<_>>(), kept);
        let is_quiet_least = kept[2] < 96 && kept.contains(&128);
        assert!(method != PruneMethod::Sobs || is_quiet_least, "{kept:?}");
        assert!(last_row(file).iter().all(|value| value.is_finite()));
        let alike = Pruning::Neurons { share: 0.25, method, alike: true };
        let options = Options { pruning: alike, ..options };
        let (file, _) = compressed(model_with_a_quiet_layer(), &options).expect("ok");
        assert!(file.config().ffn_dims.is_empty() && file.config().ffn_dim == 96);
    }
}

#[test]
fn what_is_not_changed_stays_as_it_was_given() {
    let given = model(Architecture::Llama);
    let options = Options {
        target: Target::AsGiven,
        pruning: neurons(0.25, PruneMethod::Sobs),
        ..options(BlockType::Q8_0)
    };
    let (file, report) = compressed(model(Architecture::Llama), &options).expect("ok");
    let layers = given.config().n_layers;
    assert_eq!(report.matrices["F32"], layers, "the down projections: {report:?}");
    assert_eq!(report.layers.len(), layers);
    for (layer_idx, layer) in report.layers.iter().enumerate() {
        let lost = layer.lost_by_pruning.expect("there is a text");
        assert!(lost > 0.0 && lost < 0.5, "{lost}");
        assert!(layer.bytes < layer.bytes_before && layer.neurons == 96);
        let name = format!("blk.{layer_idx}.ffn_up.weight");
        let (now, was) = (file.tensor(&name), given.tensor(&name));
        let (now, was) = (now.expect("it is there"), was.expect("it is there"));
        let row = now.bytes.len() / 96;
        let mut rest = was.bytes.chunks(row);
        // Every row that stays is one that was there, in the same order.
        assert!(now.bytes.chunks(row).all(|row| rest.any(|was| was == row)), "{name}");
    }
}

#[test]
fn an_interrupted_compression_goes_on_with_the_same_bytes() {
    let folder = std::env::temp_dir().join(format!("atoll-resume-{}", std::process::id()));
    let compute = Arc::new(Compute::new(Isa::detect(), 2).expect("threads"));
    let plain = Options {
        target: Target::Bytes(150_000),
        pruning: Pruning::Neurons { share: 0.25, method: PruneMethod::Sobs, alike: false },
        ..options(BlockType::Q8_0)
    };
    let kept = Options { resume: Some(folder.clone()), ..plain.clone() };
    let run = |options: &Options, stop_at: Option<usize>| {
        let file = model(Architecture::Llama);
        let metadata = file.metadata().clone();
        let source = TensorSource::Gguf(file);
        let mut steps = Vec::new();
        let mut progress = |at: crate::Progress| {
            steps.push((at.work, at.layers_done));
            let is_end = at.work == crate::Work::Compressing && Some(at.layers_done) == stop_at;
            assert!(!is_end, "interrupted");
        };
        let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            compress(&source, metadata.iter(), options, &compute, &mut progress)
        }));
        (made.ok().map(|made| made.expect("ok").0.to_bytes()), steps)
    };
    let (want, _) = run(&plain, None);
    assert_eq!(run(&kept, Some(1)).0, None, "it was interrupted");
    let (got, steps) = run(&kept, None);
    let step = |layers_done| (crate::Work::Compressing, layers_done);
    assert_eq!(steps, [2, 3, 4].map(step), "what was done is not done again");
    assert_eq!(got, want);
    // Other work does not go on from it, nor does it from what is damaged.
    let other = Options { sequences_max: 1, ..kept.clone() };
    assert_eq!(run(&other, Some(3)).1.last(), Some(&step(3)));
    let states = folder.join("states");
    let mut bytes = std::fs::read(&states).expect("it is there");
    bytes[100] ^= 1;
    std::fs::write(&states, bytes).expect("written");
    let (got, steps) = run(&other, None);
    assert_eq!(steps, [1, 2, 3, 4].map(step));
    assert_eq!(got, run(&Options { resume: None, ..other }, None).0);
    let foreign = folder.join("notes.txt");
    std::fs::write(&foreign, "not ours").expect("written");
    crate::forget(&folder).expect("what is not ours is no error");
    assert!(foreign.exists() && !states.exists());
    std::fs::remove_file(foreign).expect("it is there");
    crate::forget(&folder).expect("removed");
    assert!(!folder.exists());
}
