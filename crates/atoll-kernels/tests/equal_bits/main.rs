//! Every instruction set, batch, chunk and split gives the bits of plain Rust over the whole, and
//! every machine the same digest of them: promise P1, over many random cases.
//!
//! A case follows from its seed alone. A failure prints the line that replays it; `ATOLL_CASES`
//! changes how many cases each test runs (the digest needs [`DIGEST_CASES`]).
#![expect(clippy::print_stderr, reason = "a failing case says how to replay it")]

mod attention;
mod encoders;
mod products;
mod random;
mod vectors;

use atoll_kernels::Isa;

use crate::random::Random;

/// Cases whose bits are part of a test's digest.
const DIGEST_CASES: u64 = 200;

/// The instruction sets of this machine; plain Rust comes first.
fn isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

/// `ATOLL_ISAS` says which there must be, so that no comparison is left out unseen.
#[test]
fn instruction_sets_are_those_that_were_asked_for() {
    let names: Vec<&str> = isas().map(Isa::name).collect();
    assert_eq!(names[0], "generic");
    assert_eq!(names.last(), Some(&Isa::detect().name()), "the fastest is the last");
    if let Ok(wanted) = std::env::var("ATOLL_ISAS") {
        assert_eq!(names, wanted.split_whitespace().collect::<Vec<_>>());
    }
}

/// Asserts that two results have the same bits.
#[track_caller]
fn assert_bits(what: &dyn Fn() -> String, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{}", what());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let (a, b) = (got.to_bits(), want.to_bits());
        assert!(a == b, "{}: number {i} is {got} ({a:#010x}), not {want} ({b:#010x})", what());
    }
}

/// Prints how to replay a case if it fails.
struct Replay<'a> {
    test: &'a str,
    seed: u64,
}

impl Drop for Replay<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "replay: ATOLL_SEED={} cargo test --release --workspace --test equal_bits {}",
                self.seed, self.test
            );
        }
    }
}

/// Runs `check` on `count` seeds, or on the one of `ATOLL_SEED`. It returns the bits that all
/// machines must agree on; `digest` is what they come to on x86-64, found with plain Rust.
fn cases(test: &str, count: u64, digest: u64, check: impl Fn(&mut Random) -> Vec<f32>) {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
    };
    if let Some(seed) = number("ATOLL_SEED") {
        let _replay = Replay { test, seed };
        check(&mut Random::new(seed));
        return;
    }
    let count = number("ATOLL_CASES").unwrap_or(count);
    let mut seeds = Random::new(fnv(FNV_START, test.bytes()));
    let mut found = FNV_START;
    for case in 0..count {
        let seed = seeds.next();
        let _replay = Replay { test, seed };
        let bits = check(&mut Random::new(seed));
        if case < DIGEST_CASES {
            found = bits.iter().fold(found, |hash, x| fnv(hash, x.to_bits().to_le_bytes()));
        }
    }
    if count >= DIGEST_CASES {
        assert!(found == digest, "{test}: digest {found:#018x} is not {digest:#018x}");
    }
}

const FNV_START: u64 = 0xCBF2_9CE4_8422_2325;

/// FNV-1a.
fn fnv(hash: u64, bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes
        .into_iter()
        .fold(hash, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3))
}
