//! Whole tiny models, compressed and opened again.

use atoll_model::{
    Architecture, BlockType, Compute, GgufFile, GgufWriter, Isa, Part, Stage, StageInput,
    TensorSource, tiny,
};

use crate::{CompressError, Options, PruneMethod, Report, Target, compress};

fn model(architecture: Architecture) -> GgufFile {
    let bytes = tiny::random_model(&tiny::config(architecture), BlockType::F32, 7);
    GgufFile::parse(bytes).expect("a whole model")
}

fn text() -> Vec<u32> {
    (0..1100u32).map(|i| (i * i * 31 + i * 7) % 300).collect()
}

fn options(ty: BlockType) -> Options {
    Options {
        target: Target::Type(ty),
        prune_neurons: 0.0,
        method: PruneMethod::Sobs,
        calibration: text(),
        sequences_max: 2,
    }
}

fn compressed(file: GgufFile, options: &Options) -> Result<(GgufFile, Report), CompressError> {
    let compute = Compute::new(Isa::detect(), 2).expect("threads");
    let metadata = file.metadata().clone();
    let source = TensorSource::Gguf(file);
    let (writer, report) =
        compress(&source, metadata.iter(), options, &compute, &mut |_progress| {})?;
    Ok((GgufFile::parse(writer.to_bytes()).expect("opens again"), report))
}

/// The last row of the layers, for 40 tokens.
fn last_row(file: GgufFile) -> Vec<f32> {
    let compute = std::sync::Arc::new(Compute::new(Isa::detect(), 1).expect("threads"));
    let source = TensorSource::Gguf(file);
    let part = Part::whole(source.config());
    let stage = Stage::load(&source, &part, &compute, &mut |_progress| {}).expect("loads");
    let mut kv = stage.new_kv_cache(64);
    let rows = stage.forward(&mut kv, StageInput::Tokens(&text()[..40]), 0).expect("computes");
    rows.row(39).to_vec()
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
        let options = Options { prune_neurons: 0.25, method, ..options(BlockType::Q8_0) };
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
    let share = refused(Options { prune_neurons: 1.0, ..plain() });
    assert!(share.contains("1 of the neurons"), "{share}");
    let blind = refused(Options { calibration: vec![], prune_neurons: 0.5, ..plain() });
    assert!(blind.contains("needs a calibration text"), "{blind}");
    assert!(refused(options(BlockType::F16)).contains("F16"));
    let blind = Options { calibration: vec![], target: Target::Bytes(1 << 30), ..plain() };
    assert!(refused(blind).contains("a budget of bytes needs a calibration text"));
}

#[test]
fn the_same_bytes_come_out_again() {
    let bytes = |threads| {
        let compute = Compute::new(Isa::detect(), threads).expect("threads");
        let file = model(Architecture::Llama);
        let metadata = file.metadata().clone();
        let source = TensorSource::Gguf(file);
        let options = Options { prune_neurons: 0.25, ..options(BlockType::Q4_0) };
        let done = compress(&source, metadata.iter(), &options, &compute, &mut |_progress| {});
        done.expect("ok").0.to_bytes()
    };
    assert_eq!(bytes(1), bytes(2));
}
