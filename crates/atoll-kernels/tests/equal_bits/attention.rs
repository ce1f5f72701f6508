//! Attention over caches of both kinds, and how positions are written to them.

use atoll_kernels::{
    ATTENTION_TILE, Isa, KV_TILE, Kernels, KvHead, KvHeadMut, QUERIES_MAX, Queries,
    attention_state_len,
};

use crate::random::Random;
use crate::{assert_bits, cases, isas};

/// Cases of every kind of cache.
const CASES: u64 = 2_000;

/// One KV head. What it holds behind its positions is no number.
#[derive(Clone, PartialEq)]
struct Head {
    halves: [Vec<u16>; 2],
    codes: [Vec<i8>; 2],
    scales: [Vec<f32>; 2],
    is_i8: bool,
}

impl Head {
    fn new(head_dim: usize, positions: usize, is_i8: bool) -> Self {
        let room = positions.next_multiple_of(KV_TILE);
        let sizes = [room * head_dim, room * head_dim.next_multiple_of(16)];
        Self {
            halves: sizes.map(|size| vec![0x7E00; if is_i8 { 0 } else { size }]),
            codes: sizes.map(|size| vec![99; if is_i8 { size } else { 0 }]),
            scales: [room; 2].map(|size| vec![f32::NAN; if is_i8 { size } else { 0 }]),
            is_i8,
        }
    }

    fn write(&mut self) -> KvHeadMut<'_> {
        let ([k, v], [k_codes, v_codes]) = (&mut self.halves, &mut self.codes);
        let [k_scales, v_scales] = &mut self.scales;
        if self.is_i8 {
            KvHeadMut::I8 { k: k_codes, v: v_codes, k_scales, v_scales }
        } else {
            KvHeadMut::F16 { k, v }
        }
    }

    fn read(&self) -> KvHead<'_> {
        let ([k, v], [k_codes, v_codes]) = (&self.halves, &self.codes);
        let [k_scales, v_scales] = &self.scales;
        if self.is_i8 {
            KvHead::I8 { k: k_codes, v: v_codes, k_scales, v_scales }
        } else {
            KvHead::F16 { k, v }
        }
    }

    /// The bits of all positions that were written.
    fn bits(&self, positions: usize) -> (&[Vec<u16>; 2], &[Vec<i8>; 2], Vec<u32>) {
        let scales = self.scales.iter().flat_map(|scales| scales.iter().take(positions));
        (&self.halves, &self.codes, scales.map(|scale| scale.to_bits()).collect())
    }
}

/// Some numbers of a head; now and then ones that halves cannot hold or only just.
fn numbers(random: &mut Random, head_dim: usize) -> Vec<f32> {
    let factor = match random.next() % 32 {
        0 => 1e-6,
        1 => 60_000.0,
        2 => 0.0,
        _ => 1.5,
    };
    (0..head_dim).map(|_| random.float() * factor).collect()
}

/// Query columns over a head.
struct Case {
    head: Head,
    head_dim: usize,
    /// (head_dim, columns).
    q: Vec<f32>,
    lens: Vec<usize>,
    scale: f32,
}

impl Case {
    fn say(&self, isa: Isa, what: &str) -> String {
        let Self { head_dim, lens, .. } = self;
        format!("head_dim {head_dim}, positions {lens:?}, {}: {what}", isa.name())
    }

    /// States of some columns after some tiles.
    fn state(&self, isa: Isa, columns: std::ops::Range<usize>, tiles: &[usize]) -> Vec<f32> {
        let (kernels, all) = (Kernels::new(isa), self.lens.len());
        let of = |d: usize| &self.q[d * all + columns.start..d * all + columns.end];
        let q: Vec<f32> = (0..self.head_dim).flat_map(|d| of(d).to_vec()).collect();
        let queries = Queries { q: &q, lens: &self.lens[columns.clone()], scale: self.scale };
        let empty = || {
            let mut state = vec![f32::NAN; columns.len() * attention_state_len(self.head_dim)];
            kernels.attention_clear(&mut state, self.head_dim);
            state
        };
        let mut state = empty();
        for ends in tiles.windows(2) {
            // The first part goes into the state itself, the others are merged.
            if ends[0] == 0 {
                kernels.attention(&queries, self.head.read(), 0..ends[1], &mut state);
            } else {
                let mut own = empty();
                kernels.attention(&queries, self.head.read(), ends[0]..ends[1], &mut own);
                kernels.attention_merge(&mut state, &own, self.head_dim);
            }
        }
        state
    }

    /// What some columns gather, (columns, head_dim).
    fn run(&self, isa: Isa, columns: std::ops::Range<usize>, tiles: &[usize]) -> Vec<f32> {
        let state = self.state(isa, columns.clone(), tiles);
        let mut out = vec![f32::NAN; columns.len() * self.head_dim];
        let states = state.chunks(attention_state_len(self.head_dim));
        for (out, state) in out.chunks_mut(self.head_dim).zip(states) {
            Kernels::new(isa).attention_finish(state, out);
        }
        out
    }
}

fn check(random: &mut Random, is_i8: bool) -> Vec<f32> {
    let head_dim = [8, 16, 24, 32, 40, 64, 80, 128][random.small(0..=7)];
    let positions = random.small(1..=if head_dim > 64 { 600 } else { 1100 });
    let columns = random.within(1..=QUERIES_MAX);
    let mut head = Head::new(head_dim, positions, is_i8);
    let isas: Vec<Isa> = isas().collect();
    let mut twin = head.clone();
    let writer = isas[random.within(0..=isas.len() - 1)];
    for position in 0..positions {
        let (k, v) = (numbers(random, head_dim), numbers(random, head_dim));
        Kernels::new(Isa::Generic).kv_append(&k, &v, position, head.write());
        Kernels::new(writer).kv_append(&k, &v, position, twin.write());
    }
    assert!(head.bits(positions) == twin.bits(positions), "a cache written by {}", writer.name());
    // Heads of one row see the same positions, rows of a chunk ever more.
    let step = random.within(0..=2);
    let mut lens: Vec<usize> =
        (0..columns).map(|c| positions.saturating_sub(c / 2 * step).max(1)).collect();
    if random.once_in(4) {
        lens[columns - 1] = random.within(1..=positions);
    }
    lens.sort_unstable();
    let q = (0..columns * head_dim).map(|_| random.float() * 3.0).collect();
    let case = Case { head, head_dim, q, lens, scale: random.float().abs() };
    let tiles = positions.div_ceil(ATTENTION_TILE);
    let want = case.run(Isa::Generic, 0..columns, &[0, tiles]);
    for isa in isas {
        let got = case.run(isa, 0..columns, &[0, tiles]);
        assert_bits(&|| case.say(isa, "the whole"), &got, &want);
        // The first tiles together, as a short context is; every other one apart.
        let cuts: Vec<usize> = [0].into_iter().chain(random.within(1..=tiles)..=tiles).collect();
        let got = case.run(isa, 0..columns, &cuts);
        assert_bits(&|| case.say(isa, &format!("cut at tiles {cuts:?}")), &got, &want);
        for some in random.split(columns).into_iter().filter(|some| !some.is_empty()) {
            let got = case.run(isa, some.clone(), &[0, tiles]);
            let want = &want[some.start * head_dim..some.end * head_dim];
            assert_bits(&|| case.say(isa, &format!("columns {some:?}")), &got, want);
        }
    }
    want
}

#[test]
fn cache_of_halves() {
    cases("attention::cache_of_halves", CASES, 0xF994_CEFC_DBF0_F0C2, |random| {
        check(random, false)
    });
}

#[test]
fn cache_of_int8() {
    cases("attention::cache_of_int8", CASES, 0x715C_68B0_89A4_0F43, |random| check(random, true));
}
