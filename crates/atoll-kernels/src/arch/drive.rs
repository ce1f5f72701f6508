//! How a product goes over tiles, groups, steps and rows, whatever the instruction set.

use crate::BlockType;
use crate::layout::Layout;

/// A quantized block type, known to the compiler.
pub(crate) trait Kind {
    const LAYOUT: Layout;
}

/// Names all kinds to the macro `$then`, behind its other arguments, and then what is none.
macro_rules! for_all_kinds {
    ($then:path $(, $arg:tt)*) => {
        $then!(
            $($arg,)* Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K, IQ4NL, IQ4XS,
            E3, E4, E5, E6; F32, F16, BF16
        );
    };
}

macro_rules! kinds {
    ($($name:ident),*; $($other:ident),*) => {
        $(
            pub(crate) struct $name;
            impl Kind for $name {
                const LAYOUT: Layout = Layout::of(BlockType::$name);
            }
        )*
    };
}

for_all_kinds!(kinds);

/// As [`for_all_kinds`], those whose codes are indices into tables.
#[cfg(target_arch = "x86_64")]
macro_rules! for_table_kinds {
    ($then:path $(, $arg:tt)*) => {
        $then!(
            $($arg,)* IQ4NL, IQ4XS, E3, E4, E5;
            F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K, E6
        );
    };
}

/// Writes `quantized`, the product of quantized weights of the kinds that `$kinds` names.
///
/// In scope must be: [`Kind`], `Head` and `head::<K>`, `Step` and `step::<K>`, `Sums` (16 sums of a
/// row) with `zero`, `load` and `store`, and `add::<K, N>`, which adds the product of a step and
/// `N` rows.
///
/// Processors do not read ahead far enough by themselves, so what lies `prefetch::AHEAD` is asked
/// for: Zen 4 where several rows keep a core busy for longer than a step takes to come from memory,
/// Sapphire Rapids (in a virtual machine) even for one row, which is read up to 2.7 times as fast.
///
/// Up to `$few_max` rows of activations keep their sums in registers for a whole tile, in groups of
/// at most the largest of `$n`, and each group expands every step anew. Where steps stand in
/// bundles of 2 or 4, finding the places of a step can take as long as multiplying it by a row:
/// `$written` says to write the steps of a bundle out (AVX2, short of registers, is slower that
/// way). For more rows [`BLOCK_STEPS`] steps are expanded once and multiplied by all of them, as
/// many of `$many` at a time as there are.
macro_rules! drive {
    (
        $kinds:path,
        $features:literal,
        few: $few_max:literal in groups of $($n:literal)*, bundles written out: $written:literal,
        many: $($many:literal)*
    ) => {
        $kinds!($crate::arch::drive::choose, $features, $few_max);

        #[target_feature(enable = $features)]
        fn few<K: Kind>(
            w: &PackedMatrix,
            tiles: Range<usize>,
            next: Option<&[u8]>,
            x: &Activations,
            out: &mut [f32],
        ) {
            const ROWS: usize = [$($n),*].len();
            let way = prefetch::Way::new(w.run(tiles.clone()), next);
            let n_groups = x.rows.div_ceil(ROWS);
            for (tile, out) in tiles.zip(out.chunks_exact_mut(x.rows * TILE_ROWS)) {
                let (tile, mut row) = (w.tile(tile), 0);
                for group in 0..n_groups {
                    let n = (x.rows - row).div_ceil(n_groups - group);
                    match n {
                        $($n => few_rows::<K, $n>(tile, way, x, row, out),)*
                        _ => few_rows::<K, ROWS>(tile, way, x, row, out),
                    }
                    row += n;
                }
            }
        }

        /// A tile times `N` rows of activations from `row`; `out` is (rows, 16).
        #[inline(never)]
        #[target_feature(enable = $features)]
        fn few_rows<K: Kind, const N: usize>(
            tile: &[u8],
            way: prefetch::Way,
            x: &Activations,
            row: usize,
            out: &mut [f32],
        ) {
            let mut sums = [zero(); N];
            let mut i = row;
            for group in tile.chunks(K::LAYOUT.group_bytes()) {
                let head = head::<K>(group);
                let is_full = $written && group.len() == K::LAYOUT.group_bytes();
                match K::LAYOUT.steps() {
                    2 if is_full => {
                        let group = &group[..K::LAYOUT.group_bytes()];
                        $crate::arch::drive::one_step!(K, N, group, head, 0, way, x, i, sums);
                        $crate::arch::drive::one_step!(K, N, group, head, 1, way, x, i, sums);
                    }
                    4 if is_full => {
                        let group = &group[..K::LAYOUT.group_bytes()];
                        $crate::arch::drive::one_step!(K, N, group, head, 0, way, x, i, sums);
                        $crate::arch::drive::one_step!(K, N, group, head, 1, way, x, i, sums);
                        $crate::arch::drive::one_step!(K, N, group, head, 2, way, x, i, sums);
                        $crate::arch::drive::one_step!(K, N, group, head, 3, way, x, i, sums);
                    }
                    _ => {
                        for s in 0..K::LAYOUT.steps_in(group.len()) {
                            $crate::arch::drive::one_step!(K, N, group, head, s, way, x, i, sums);
                        }
                    }
                }
            }
            let (out, _) = out.as_chunks_mut::<TILE_ROWS>();
            for n in 0..N {
                store(&mut out[row + n], sums[n]);
            }
        }

        #[target_feature(enable = $features)]
        fn many<K: Kind>(w: &PackedMatrix, tiles: Range<usize>, x: &Activations, out: &mut [f32]) {
            let block_bytes = K::LAYOUT.group_bytes() * (drive::BLOCK_STEPS / K::LAYOUT.steps());
            if tiles.is_empty() {
                return;
            }
            let tile = w.tile(tiles.start);
            let first = tile.chunks(K::LAYOUT.group_bytes()).next().expect("there are columns");
            let mut steps = [step::<K>(first, head::<K>(first), 0); drive::BLOCK_STEPS];
            let tile_bytes = tile.len();
            for (block, from) in (0..tile_bytes).step_by(block_bytes).enumerate() {
                let i = block * drive::BLOCK_STEPS * x.rows;
                for (tile, out) in tiles.clone().zip(out.chunks_exact_mut(x.rows * TILE_ROWS)) {
                    let bytes = &w.tile(tile)[from..tile_bytes.min(from + block_bytes)];
                    let mut n = 0;
                    for group in bytes.chunks(K::LAYOUT.group_bytes()) {
                        let head = head::<K>(group);
                        for s in 0..K::LAYOUT.steps_in(group.len()) {
                            let bytes = K::LAYOUT.group_bytes() / K::LAYOUT.steps();
                            let ahead = s * bytes + tile_bytes;
                            prefetch::ask(group.as_ptr().wrapping_add(ahead), bytes);
                            steps[n] = step::<K>(group, head, s);
                            n += 1;
                        }
                    }
                    many_rows::<K>(&steps[..n], i, block == 0, x, out);
                }
            }
        }

        /// Adds the products of `steps` and all rows to `out`, (rows, 16), or writes them if they
        /// are the first; the first step's first run is `i`.
        #[inline]
        #[target_feature(enable = $features)]
        fn many_rows<K: Kind>(
            steps: &[Step],
            i: usize,
            are_first: bool,
            x: &Activations,
            out: &mut [f32],
        ) {
            let mut row = 0;
            $(
                while x.rows - row >= $many {
                    some_rows::<K, $many>(steps, i, row, are_first, x, out);
                    row += $many;
                }
            )*
        }

        #[inline(never)]
        #[target_feature(enable = $features)]
        fn some_rows<K: Kind, const N: usize>(
            steps: &[Step],
            i: usize,
            row: usize,
            are_first: bool,
            x: &Activations,
            out: &mut [f32],
        ) {
            let (out, _) = out.as_chunks_mut::<TILE_ROWS>();
            let out: &mut [_; N] = out[row..].first_chunk_mut().expect("sums of every row");
            let mut sums = [zero(); N];
            if !are_first {
                for n in 0..N {
                    sums[n] = load(&out[n]);
                }
            }
            let mut i = i + row;
            for step in steps {
                let (codes, numbers) = x.runs(i);
                i += x.rows;
                // The next step's are so far off that the processor does not find them by itself.
                for line in 0..N.div_ceil(2) {
                    prefetch::near(codes.as_ptr().wrapping_add(x.rows + 2 * line).cast());
                    prefetch::near(numbers.as_ptr().wrapping_add(x.rows + 2 * line).cast());
                }
                add::<K, N>(step, codes, numbers, &mut sums);
            }
            for n in 0..N {
                store(&mut out[n], sums[n]);
            }
        }
    };
}

/// Asks for what is ahead of step `$s` and adds its products with `$n` rows, the first of which has
/// its run at `$i`. (Not a function: the sums must stay in registers.)
macro_rules! one_step {
    (
        $kind:ident, $n:ident, $group:ident, $head:ident, $s:expr,
        $way:ident, $x:ident, $i:ident, $sums:ident
    ) => {
        let bytes = $kind::LAYOUT.group_bytes() / $kind::LAYOUT.steps();
        $way.ask($group.as_ptr().wrapping_add($s * bytes), bytes);
        let (codes, numbers) = $x.runs($i);
        add::<$kind, $n>(&step::<$kind>($group, $head, $s), codes, numbers, &mut $sums);
        $i += $x.rows;
    };
}

/// Writes `quantized`, the choice among kinds.
macro_rules! choose {
    ($features:literal, $few_max:literal, $($name:ident),*; $($other:ident),*) => {
        #[target_feature(enable = $features)]
        fn quantized(
            w: &PackedMatrix,
            tiles: Range<usize>,
            next: Option<&[u8]>,
            x: &Activations,
            out: &mut [f32],
        ) {
            if w.cols() == 0 {
                out.fill(0.0);
                return;
            }
            let is_few = x.rows <= $few_max;
            match w.block_type() {
                $(
                    $crate::BlockType::$name if is_few => {
                        few::<$crate::arch::drive::$name>(w, tiles, next, x, out);
                    }
                    $crate::BlockType::$name => {
                        many::<$crate::arch::drive::$name>(w, tiles, x, out);
                    }
                )*
                $($crate::BlockType::$other)|* => {
                    $crate::matmul::matmul(w, tiles, next, x, out);
                }
            }
        }
    };
}

/// Writes `floats`, the product of float weights.
///
/// In scope must be `Sums`, `zero` and `store` as for `drive`, `column::<TYPE>`, which widens 16
/// numbers of type [`F32`], [`F16`] or [`BF16`], and `multiply_add`. Two tiles are read at once, so
/// that a sum can wait for the one before it.
macro_rules! drive_floats {
    ($features:literal, rows: $($n:literal)*) => {
        #[target_feature(enable = $features)]
        fn floats(
            w: &PackedMatrix,
            tiles: Range<usize>,
            next: Option<&[u8]>,
            x: &Activations,
            out: &mut [f32],
        ) {
            match w.block_type() {
                $crate::BlockType::F16 => float_tiles::<{ drive::F16 }>(w, tiles, next, x, out),
                $crate::BlockType::BF16 => float_tiles::<{ drive::BF16 }>(w, tiles, next, x, out),
                _ => float_tiles::<{ drive::F32 }>(w, tiles, next, x, out),
            }
        }

        #[target_feature(enable = $features)]
        fn float_tiles<const TYPE: u8>(
            w: &PackedMatrix,
            tiles: Range<usize>,
            next: Option<&[u8]>,
            x: &Activations,
            out: &mut [f32],
        ) {
            let way = prefetch::Way::new(w.run(tiles.clone()), next);
            let pairs = tiles.clone().step_by(2).zip(out.chunks_mut(2 * x.rows * TILE_ROWS));
            for (t, out) in pairs {
                let mut row = 0;
                $(
                    while x.rows - row >= $n {
                        if t + 1 < tiles.end {
                            let pair = [w.tile(t), w.tile(t + 1)];
                            float_rows::<TYPE, 2, $n>(pair, way, x, row, out);
                        } else {
                            float_rows::<TYPE, 1, $n>([w.tile(t)], way, x, row, out);
                        }
                        row += $n;
                    }
                )*
            }
        }

        /// `T` tiles times `N` rows of activations from `row`; `out` is (T, rows, 16).
        #[inline(never)]
        #[target_feature(enable = $features)]
        fn float_rows<const TYPE: u8, const T: usize, const N: usize>(
            tiles: [&[u8]; T],
            way: prefetch::Way,
            x: &Activations,
            row: usize,
            out: &mut [f32],
        ) {
            let size = TILE_ROWS * if TYPE == drive::F32 { 4 } else { 2 };
            let (x_tiles, _) = x.floats.as_chunks::<TILE_ROWS>();
            let mut sums = [[zero(); N]; T];
            for (from, x_tile) in (0..x.cols).step_by(TILE_ROWS).zip(x_tiles.chunks_exact(x.rows)) {
                let rows: &[[f32; TILE_ROWS]; N] =
                    x_tile[row..].first_chunk().expect("every row of a tile");
                for tile in tiles {
                    way.ask(tile.as_ptr().wrapping_add(from * size), size * TILE_ROWS);
                }
                for col in from..x.cols.min(from + TILE_ROWS) {
                    for t in 0..T {
                        let w = column::<TYPE>(&tiles[t][col * size..][..size]);
                        for n in 0..N {
                            sums[t][n] = multiply_add(w, rows[n][col - from], sums[t][n]);
                        }
                    }
                }
            }
            let (out, _) = out.as_chunks_mut::<TILE_ROWS>();
            for t in 0..T {
                for n in 0..N {
                    store(&mut out[t * x.rows + row + n], sums[t][n]);
                }
            }
        }
    };
}

/// Steps that are expanded together: so few that they stay in the L1 cache, so many that sums are
/// seldom loaded and stored. A multiple of the steps of every group.
pub(crate) const BLOCK_STEPS: usize = 16;

pub(crate) const F32: u8 = 0;
pub(crate) const F16: u8 = 1;
pub(crate) const BF16: u8 = 2;

#[cfg(target_arch = "x86_64")]
pub(crate) use for_table_kinds;
pub(crate) use {choose, drive, drive_floats, for_all_kinds, one_step};
