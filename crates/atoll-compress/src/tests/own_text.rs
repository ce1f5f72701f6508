//! A tiny decoder that is calibrated on what it writes.

use super::*;

#[test]
fn it_is_calibrated_on_besides_or_alone() {
    let pruning = neurons(0.25, PruneMethod::Sobs);
    let given = Options { pruning, ..options(BlockType::Q8_0) };
    let both = Options { own_sequences: 2, ..given.clone() };
    let alone = Options { calibration: Vec::new(), ..both.clone() };
    let made = [&given, &both, &alone].map(|options| {
        let (file, report) = compressed(model(Architecture::Llama), options).expect("has a text");
        let down = file.tensor("blk.0.ffn_down.weight").expect("there").bytes.to_vec();
        (report.calibration_tokens, down)
    });
    assert_eq!(made.each_ref().map(|made| made.0), [1024, 2048, 1024]);
    assert!(made[0].1 != made[1].1 && made[1].1 != made[2].1, "each text has its own repair");
    for options in [&both, &alone] {
        let file = model(Architecture::Llama);
        let metadata = file.metadata().clone();
        let source = TensorSource::Gguf(file);
        let seen = crate::foresee(&source, metadata.iter(), options).expect("possible");
        let (_, report) = compressed(model(Architecture::Llama), options).expect("ok");
        assert_eq!(seen.calibration_tokens, report.calibration_tokens);
    }
    let target = Target::Bytes(150_000);
    compressed(model(Architecture::Llama), &Options { target, ..alone.clone() }).expect("measured");
}

#[test]
fn widths_are_not_judged_by_it() {
    let blind = Options {
        calibration: Vec::new(),
        own_sequences: 4,
        widths: vec![0.5],
        ..options(BlockType::Q8_0)
    };
    let refused = compressed(model(Architecture::Llama), &blind).expect_err("refused");
    assert!(matches!(refused, CompressError::NeedsText("judging widths")), "{refused}");
}
