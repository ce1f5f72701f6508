use atoll_model::{Architecture, BlockType, GgufFile, Isa, Part, tiny};

use super::*;

/// A decoder and a tokenizer for it.
fn small_writer() -> (TensorSource, Tokenizer) {
    let bytes = tiny::random_model(&tiny::config(Architecture::Qwen2), BlockType::F32, 7);
    let file = GgufFile::parse(bytes).expect("a whole model");
    let tokenizer = Tokenizer::from_gguf(file.metadata()).expect("it has one");
    (TensorSource::Gguf(file), tokenizer)
}

#[test]
fn one_half_goes_on_from_openings_and_one_is_free() {
    const SEQUENCES: usize = 19;
    let (source, tokenizer) = small_writer();
    let compute = Arc::new(Compute::new(Isa::detect(), 2).expect("threads"));
    let mut seen = Vec::new();
    let mut progress = |at: Progress| seen.push((at.layers_done, at.layers));
    let text = write_text(&source, &tokenizer, SEQUENCES, &compute, &mut progress);
    let text = text.expect("a decoder");
    let one = write_text(&source, &tokenizer, 1, &compute, &mut |_| ()).expect("no free half");
    assert!(text.starts_with(&one) && !one.is_empty());
    assert_eq!(seen, [(16, 19), (19, 19)]);
    let stage = Stage::load(&source, &Part::whole(source.config()), &compute, &mut |_| ());
    let stage = stage.expect("loads");
    let words = words(&tokenizer);
    let mut opened = (0..20).map(|piece| {
        let begun = Begun::new(&tokenizer, &words, piece).expect("text");
        assert!(begun.tokens.len() <= SEQUENCE - PIECE);
        assert!(tokenizer.decode(&begun.tokens).ends_with(begun.words.trim_end()));
        let mut alone = [begun.tokens.clone()];
        let never = tokenizer.ends();
        go_on(&stage, &mut alone, &[sampler(piece)], PIECE, &never, &compute).expect("fits");
        let said = &alone[0][begun.tokens.len()..];
        assert_eq!(said.len(), PIECE);
        assert!(!said.iter().any(|id| never.contains(id)), "it never ends");
        begun.words + &tokenizer.decode(said) + "\n"
    });
    let mut free = (0..9).map(|seed| {
        let text = freely(&stage, seed..seed + 1, &compute).expect("fits");
        assert_eq!(text[0].len(), SEQUENCE);
        tokenizer.decode(&text[0]) + "\n"
    });
    // Each is what it would be alone.
    let mut want = String::new();
    for (pieces, sequences) in [(16, 8), (4, 1)] {
        want.extend(opened.by_ref().take(pieces));
        want.extend(free.by_ref().take(sequences));
    }
    assert!(opened.next().is_none() && free.next().is_none());
    assert_eq!(text, want);
}

#[test]
fn pieces_begin_differently() {
    let words = ["harbour", "tide", "lantern", "ferry", "orchard"].map(str::to_owned);
    let openings: Vec<&str> = OPENINGS.trim().split("\n\n").collect();
    let (mut pairs, mut names) = (std::collections::BTreeSet::new(), Vec::new());
    for piece in 0..40 {
        let (before, name) = opened(&words, piece);
        let pair: Vec<&str> = before.trim().split("\n\n").collect();
        assert!(pair.len() == 2 && pair[0] != pair[1], "{pair:?}");
        assert!(pair.iter().all(|opening| openings.contains(opening)));
        assert!(before.ends_with("\n\n"), "the third is a paragraph of its own");
        assert_eq!(opened(&words, piece), (before.clone(), name.clone()), "the same each time");
        pairs.insert(before);
        names.push(name);
    }
    assert!(pairs.len() > 30, "{}", pairs.len());
    for start in ["Harbour", "The Tide", "The lantern Ferry", "Orchard "] {
        assert!(names.iter().any(|name| name.starts_with(start)), "{start}: {names:?}");
    }
    let (_, tokenizer) = small_writer();
    assert!(Begun::new(&tokenizer, &[], 0).is_ok(), "a vocabulary without words");
}

#[test]
fn words_are_whole_and_in_small_letters() {
    assert_eq!(word(b" tide".to_vec()).as_deref(), Some("tide"));
    for bytes in ["tide", " the", " Tide", " ti2e", "  tide", " tid\u{e9}", "", " "] {
        assert_eq!(word(bytes.as_bytes().to_vec()), None, "{bytes:?}");
    }
    assert_eq!(word(b" tide\xff".to_vec()), None);
}
