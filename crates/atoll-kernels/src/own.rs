//! Atoll's own block types: E3, E4, E5 and E6. A block is 32 columns: a byte of scale, then codes.
//!
//! - E3: 8 bytes, of which byte `i` has bits 0 and 1 of the columns `i`, `8 + i`, `16 + i` and
//!   `24 + i`, from its low bits up; then 4 bytes with bit 2 of every column, a column a bit.
//! - E4: 16 bytes, of which byte `i` has column `i` in its low nibble and `16 + i` in its high.
//! - E5: 4 bytes with bit 4 of every column, then bits 0 to 3 as in E4.
//! - E6: bits 0 to 3 as in E4, then 8 bytes with bits 4 and 5 as in E3.
//!
//! A column is the scale times an integer: the code's entry of [`E3_VALUES`], [`E4_VALUES`] or
//! [`E5_VALUES`], or for E6 the code minus 32. The tables are where Lloyd's iteration, with the
//! scales searched anew in every round, ended on weights of Qwen2.5-Coder-0.5B that its file holds
//! in 6 and 8 bits. They are not symmetric: a negative scale turns them round.
//!
//! A byte of scale is a number of 1 sign, 4 exponent and 3 mantissa bits, as in an IEEE half whose
//! other bits are 0, times 1/32 ([`scale_of_byte`]). It is always finite.

use crate::vector::f32_from_f16;

/// What the codes of E3 stand for, before the scale.
pub const E3_VALUES: [i8; 8] = [-105, -64, -35, -11, 8, 34, 69, 127];

/// What the codes of E4 stand for, before the scale.
pub const E4_VALUES: [i8; 16] =
    [-115, -90, -69, -53, -39, -27, -16, -6, 3, 14, 26, 39, 54, 71, 93, 127];

/// What the codes of E5 stand for, before the scale.
pub const E5_VALUES: [i8; 32] = [
    -121, -107, -97, -85, -76, -67, -57, -49, -42, -35, -29, -23, -18, -12, -8, -3, 2, 7, 12, 17,
    23, 30, 36, 42, 49, 57, 64, 73, 83, 96, 114, 127,
];

/// What the half that a byte of scale stands for is multiplied with.
pub(crate) const SCALE_UNIT: f32 = 1.0 / 32.0;

/// The bits of that half.
pub(crate) const fn half_of_byte(byte: u8) -> u16 {
    ((byte as u16 & 0x80) << 8) | ((byte as u16 & 0x7F) << 7)
}

/// The scale that `byte` stands for.
#[must_use]
pub fn scale_of_byte(byte: u8) -> f32 {
    f32_from_f16(half_of_byte(byte)) * SCALE_UNIT
}

/// The byte whose scale is nearest to `scale`; the largest of its sign if none is near. NaN gives
/// that of 0.
#[must_use]
pub fn byte_of_scale(scale: f32) -> u8 {
    let size = scale.abs();
    // Sizes ascend with the seven bits.
    let (mut low, mut high) = (0u8, 0x7F);
    while low < high {
        let middle = low + (high - low) / 2;
        if scale_of_byte(middle) < size { low = middle + 1 } else { high = middle }
    }
    if low > 0 && size - scale_of_byte(low - 1) < scale_of_byte(low) - size {
        low -= 1;
    }
    if size.is_nan() { 0 } else { low | if scale < 0.0 { 0x80 } else { 0 } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_the_nearest_to_its_own_scale() {
        for byte in 0..=255u8 {
            let scale = scale_of_byte(byte);
            assert!(scale.is_finite());
            let want = if byte == 0x80 { 0 } else { byte };
            assert_eq!(byte_of_scale(scale), want);
        }
        assert_eq!(scale_of_byte(1), 1.0 / f32::from(1u16 << 14) / 8.0 / 32.0);
        assert_eq!(scale_of_byte(0xFF), -1.875 / 32.0);
    }

    #[test]
    fn bytes_are_nearest_and_saturate() {
        for i in 0..4000u16 {
            let scale = (f32::from(i) - 2000.0) * 3.1e-5;
            let found = (scale_of_byte(byte_of_scale(scale)) - scale).abs();
            let best = (0..=255u8).map(|b| (scale_of_byte(b) - scale).abs()).fold(1.0, f32::min);
            assert_eq!(found, best, "{scale}");
        }
        assert_eq!(byte_of_scale(9.0), 0x7F);
        assert_eq!(byte_of_scale(f32::NEG_INFINITY), 0xFF);
        assert_eq!(byte_of_scale(f32::NAN), 0);
    }

    #[test]
    fn tables_ascend() {
        assert!(E3_VALUES.is_sorted() && E4_VALUES.is_sorted() && E5_VALUES.is_sorted());
    }
}
