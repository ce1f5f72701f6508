//! Products of packed weights and activations, and rows of the weights as numbers.

use atoll_kernels::{Activations, BlockType, Isa, Kernels, PackedMatrix, TILE_ROWS, dequantize};

use crate::random::Random;
use crate::{assert_bits, cases, isas};

/// Cases of every block type.
const CASES: u64 = 10_000;

/// Rows `rows` of `x`, (rows, cols), as activations.
fn activations(
    kernels: &Kernels,
    x: &[f32],
    rows: std::ops::Range<usize>,
    cols: usize,
) -> Activations {
    let mut acts = Activations::new();
    acts.quantize(kernels, &x[rows.start * cols..rows.end * cols], rows.len(), cols);
    acts
}

/// A product: weights, rows of activations.
struct Product {
    ty: BlockType,
    blocks: Vec<u8>,
    w: PackedMatrix,
    x: Vec<f32>,
    n: usize,
}

impl Product {
    fn new(random: &mut Random, ty: BlockType) -> Self {
        let rows = random.small(1..=70);
        let cols = match ty.block_len() {
            1 => random.small(1..=130),
            len => len * random.small(1..=if len == 32 { 9 } else { 3 }),
        };
        // Mostly decode and small batches; now and then more rows than are held in registers, or
        // than stay in the cache.
        let n = match random.next() % 256 {
            0 => random.within(120..=140),
            1..16 => random.within(18..=40),
            16..112 => 1,
            _ => random.within(1..=17),
        };
        let blocks = random.blocks(ty, rows * cols / ty.block_len());
        let w = PackedMatrix::pack(ty, rows, cols, &blocks);
        let mut x = Vec::new();
        (0..n).for_each(|_| x.extend(random.floats(cols)));
        Self { ty, blocks, w, x, n }
    }

    fn say(&self, isa: Isa, what: &str) -> String {
        let (rows, cols) = (self.w.rows(), self.w.cols());
        format!("{} {rows}x{cols} times {} rows, {}: {what}", self.ty.name(), self.n, isa.name())
    }

    /// The whole product, (tiles, rows, 16).
    fn whole(&self, isa: Isa) -> Vec<f32> {
        let kernels = Kernels::new(isa);
        let acts = activations(&kernels, &self.x, 0..self.n, self.w.cols());
        let mut out = vec![f32::NAN; self.w.n_tiles() * self.n * TILE_ROWS];
        kernels.matmul(&self.w, 0..self.w.n_tiles(), &acts, &mut out);
        out
    }

    /// Computes tiles apart, as threads do.
    fn check_tiles(&self, random: &mut Random, isa: Isa, want: &[f32]) {
        let kernels = Kernels::new(isa);
        let acts = activations(&kernels, &self.x, 0..self.n, self.w.cols());
        for tiles in random.split(self.w.n_tiles()) {
            let at = tiles.start * self.n * TILE_ROWS..tiles.end * self.n * TILE_ROWS;
            let mut out = vec![f32::NAN; at.len()];
            kernels.matmul(&self.w, tiles.clone(), &acts, &mut out);
            assert_bits(&|| self.say(isa, &format!("tiles {tiles:?}")), &out, &want[at]);
        }
    }

    /// Computes chunks of rows, and one row alone.
    fn check_rows(&self, random: &mut Random, isa: Isa, want: &[f32]) {
        let (kernels, one) = (Kernels::new(isa), random.within(0..=self.n - 1));
        let mut chunks = random.split(self.n);
        chunks.push(one..one + 1);
        for rows in chunks {
            let acts = activations(&kernels, &self.x, rows.clone(), self.w.cols());
            let mut out = vec![f32::NAN; self.w.n_tiles() * rows.len() * TILE_ROWS];
            kernels.matmul(&self.w, 0..self.w.n_tiles(), &acts, &mut out);
            for tile in 0..if rows.is_empty() { 0 } else { self.w.n_tiles() } {
                let got = &out[tile * rows.len() * TILE_ROWS..][..rows.len() * TILE_ROWS];
                let want = &want[(tile * self.n + rows.start) * TILE_ROWS..][..got.len()];
                assert_bits(&|| self.say(isa, &format!("rows {rows:?} of tile {tile}")), got, want);
            }
        }
    }

    /// A row of the packed weights is what the file says.
    fn check_row(&self, random: &mut Random) {
        let (row, cols) = (random.within(0..=self.w.rows() - 1), self.w.cols());
        let (mut got, mut want) = (vec![f32::NAN; cols], vec![0.0; cols]);
        Kernels::new(Isa::detect()).dequantize_row(&self.w, row, &mut got);
        let bytes = self.ty.row_bytes(cols);
        dequantize(self.ty, &self.blocks[row * bytes..][..bytes], &mut want);
        assert_bits(&|| self.say(Isa::Generic, &format!("numbers of row {row}")), &got, &want);
    }
}

fn check(random: &mut Random, ty: BlockType) -> Vec<f32> {
    let product = Product::new(random, ty);
    let want = product.whole(Isa::Generic);
    for isa in isas().skip(1) {
        assert_bits(&|| product.say(isa, "the whole"), &product.whole(isa), &want);
        product.check_tiles(random, isa, &want);
        product.check_rows(random, isa, &want);
    }
    if random.once_in(16) {
        product.check_tiles(random, Isa::Generic, &want);
        product.check_rows(random, Isa::Generic, &want);
    }
    product.check_row(random);
    assert!(product.w.scales_finite());
    want
}

/// A test for every type, with the digest of its first products.
macro_rules! types {
    ($($test:ident $ty:ident $digest:literal;)*) => {
        $(
            #[test]
            fn $test() {
                let name = concat!("products::", stringify!($test));
                cases(name, CASES, $digest, |random| check(random, BlockType::$ty));
            }
        )*

        #[test]
        fn every_type_has_a_test() {
            let tested = [$(BlockType::$ty),*];
            assert!(BlockType::all().all(|ty| tested.contains(&ty)));
        }
    };
}

types! {
    f32 F32 0x10EE_9C92_25C2_00C7;
    f16 F16 0x0558_75E0_A783_8ED7;
    bf16 BF16 0xD24D_B16A_3DDA_1F5C;
    q4_0 Q4_0 0x737D_5D2D_9803_8942;
    q4_1 Q4_1 0xDE13_3D07_AD8A_62B2;
    q5_0 Q5_0 0x31F8_E9B3_3166_2EC6;
    q5_1 Q5_1 0xB333_8C96_1B4C_072A;
    q8_0 Q8_0 0x4545_02ED_4FCC_C3C1;
    q2_k Q2K 0xEE51_9598_29CD_E81E;
    q3_k Q3K 0x7AF5_6E66_193F_EE88;
    q4_k Q4K 0xB552_D3F7_F188_4BEC;
    q5_k Q5K 0xD6B5_A654_97DE_3A3C;
    q6_k Q6K 0x18EA_EE41_A3BD_555E;
    iq4_nl IQ4NL 0xFBB7_8BD2_6B24_C473;
    iq4_xs IQ4XS 0x24D5_715A_7E13_A884;
    e3 E3 0xF044_6D18_CD0E_7E47;
    e4 E4 0x96D1_1E42_BBBA_2A59;
    e5 E5 0xB769_CD53_A54C_82B7;
    e6 E6 0xE95E_3ED0_E538_A8BF;
}
