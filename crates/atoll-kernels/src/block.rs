//! How numbers are stored: the block types, their sizes and ids.
//!
//! Source: ggml's `ggml.h` (ids) and `ggml-common.h` (block layouts); Atoll's own types stand in
//! `own.rs`.

/// A block type: a run of columns of one row, stored together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockType {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of single precision.
    BF16,
    /// 4 bits, one scale per 32.
    Q4_0,
    /// 4 bits, scale and minimum per 32.
    Q4_1,
    /// 5 bits, one scale per 32.
    Q5_0,
    /// 5 bits, scale and minimum per 32.
    Q5_1,
    /// 8 bits, one scale per 32.
    Q8_0,
    /// 2 bits, 4-bit scales and minima per 16.
    Q2K,
    /// 3 bits, 6-bit scales per 16.
    Q3K,
    /// 4 bits, 6-bit scales and minima per 32.
    Q4K,
    /// 5 bits, 6-bit scales and minima per 32.
    Q5K,
    /// 6 bits, 8-bit scales per 16.
    Q6K,
    /// 4 bits into a table of 16 values, one scale per 32.
    IQ4NL,
    /// 4 bits into a table of 16 values, 6-bit scales per 32.
    IQ4XS,
    /// Atoll's own: 3 bits into a table of 8 values, a byte of scale per 32.
    E3,
    /// Atoll's own: 4 bits into a table of 16 values, a byte of scale per 32.
    E4,
    /// Atoll's own: 5 bits into a table of 32 values, a byte of scale per 32.
    E5,
    /// Atoll's own: 6 bits, a byte of scale per 32.
    E6,
}

/// Ids of Atoll's own types: "AT" and the bits of a code. ggml's ids are small numbers, and its
/// readers refuse what they do not know.
const OWN_ID: u32 = 0x4154_0000;

/// (type, id, columns of a block, bytes of a block, name).
const TABLE: [(BlockType, u32, usize, usize, &str); 19] = [
    (BlockType::F32, 0, 1, 4, "F32"),
    (BlockType::F16, 1, 1, 2, "F16"),
    (BlockType::BF16, 30, 1, 2, "BF16"),
    (BlockType::Q4_0, 2, 32, 18, "Q4_0"),
    (BlockType::Q4_1, 3, 32, 20, "Q4_1"),
    (BlockType::Q5_0, 6, 32, 22, "Q5_0"),
    (BlockType::Q5_1, 7, 32, 24, "Q5_1"),
    (BlockType::Q8_0, 8, 32, 34, "Q8_0"),
    (BlockType::Q2K, 10, 256, 84, "Q2_K"),
    (BlockType::Q3K, 11, 256, 110, "Q3_K"),
    (BlockType::Q4K, 12, 256, 144, "Q4_K"),
    (BlockType::Q5K, 13, 256, 176, "Q5_K"),
    (BlockType::Q6K, 14, 256, 210, "Q6_K"),
    (BlockType::IQ4NL, 20, 32, 18, "IQ4_NL"),
    (BlockType::IQ4XS, 23, 256, 136, "IQ4_XS"),
    (BlockType::E3, OWN_ID + 3, 32, 13, "E3"),
    (BlockType::E4, OWN_ID + 4, 32, 17, "E4"),
    (BlockType::E5, OWN_ID + 5, 32, 21, "E5"),
    (BlockType::E6, OWN_ID + 6, 32, 25, "E6"),
];

impl BlockType {
    /// Every block type.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| row.0)
    }

    /// The block type whose id in a GGUF file is `id`: ggml's, or one of our own.
    #[must_use]
    pub fn from_ggml(id: u32) -> Option<Self> {
        TABLE.iter().find(|row| row.1 == id).map(|row| row.0)
    }

    /// Its id in a GGUF file: ggml's, or one of our own.
    #[must_use]
    pub const fn ggml_id(self) -> u32 {
        TABLE[self as usize].1
    }

    /// Columns of one block.
    #[must_use]
    pub const fn block_len(self) -> usize {
        TABLE[self as usize].2
    }

    /// Bytes of one block.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        TABLE[self as usize].3
    }

    /// ggml's name, such as `Q4_K`, or one of our own.
    #[must_use]
    pub const fn name(self) -> &'static str {
        TABLE[self as usize].4
    }

    /// Whether only Atoll reads it.
    #[must_use]
    pub const fn is_own(self) -> bool {
        self.ggml_id() > OWN_ID
    }

    /// Bytes of a row of `cols` columns, which must be whole blocks.
    #[must_use]
    pub const fn row_bytes(self, cols: usize) -> usize {
        cols / self.block_len() * self.block_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::{BlockType, TABLE};

    #[test]
    fn table_is_in_the_order_of_the_enum() {
        for (idx, row) in TABLE.iter().enumerate() {
            assert_eq!(row.0 as usize, idx);
            assert_eq!(BlockType::from_ggml(row.1), Some(row.0));
        }
        assert_eq!(BlockType::from_ggml(9), None);
        assert_eq!(BlockType::Q6K.row_bytes(512), 420);
    }
}
