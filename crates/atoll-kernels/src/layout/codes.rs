//! Where the bits of codes stand.
//!
//! The codes of the 8 chunks of a step take as many vectors of 64 bytes as a code has bits; byte
//! `4 * row + i` of each belongs to row `row` and column `i` of a chunk. A code stands in one piece
//! at the low end of the bytes where it can, so that a single mask, or none, takes it out:
//! - 2 bits: vector `t` holds chunk `4 * t + u` at bit `2 * u`;
//! - 4 bits: vector `s` holds chunk `2 * s` in its low nibbles and chunk `2 * s + 1` in the high;
//! - 8 bits: a vector for each chunk;
//! - 3 bits: vector `s` holds chunk `2 * s` at bit 0 and chunk `2 * s + 1` at bit 3; what is left,
//!   bits 6 and 7, makes 6 bits over the three vectors, of which chunk 6 is the low half and chunk
//!   7 the high;
//! - 6 bits: vector `j` holds chunk `j` at bit 0; bits 6 and 7 of vectors 0 to 2 make chunk 6,
//!   those of vectors 3 to 5 chunk 7;
//! - 5 bits: vector `j` holds chunk `j` at bit 0; bits 5 to 7 of vectors 0, 1 and 2 are the upper
//!   bits of chunks 5, 6 and 7, whose lower two are bits 5 and 6 of vector 3, those of vector 4,
//!   and bits 7 of both.

use super::Layout;

/// Some bits of a code.
#[derive(Clone, Copy)]
struct Part {
    /// The vector that holds them.
    vector: usize,
    /// Their lowest bit in its bytes.
    from: usize,
    /// As many ones.
    mask: u8,
    /// Their lowest bit in the code.
    to: usize,
}

const fn part(vector: usize, from: usize, n: usize, to: usize) -> Part {
    Part { vector, from, mask: if n == 0 { 0 } else { 0xFF >> (8 - n) }, to }
}

/// The parts of the codes of a chunk.
#[inline(always)]
const fn parts(bits: usize, chunk: usize) -> [Part; 3] {
    let none = part(0, 0, 0, 0);
    match (bits, chunk) {
        (2, _) => [part(chunk / 4, 2 * (chunk % 4), 2, 0), none, none],
        (4, _) => [part(chunk / 2, 4 * (chunk % 2), 4, 0), none, none],
        (3, 0..=5) => [part(chunk / 2, 3 * (chunk % 2), 3, 0), none, none],
        (3, 6) => [part(0, 6, 2, 0), part(1, 6, 1, 2), none],
        (3, _) => [part(1, 7, 1, 0), part(2, 6, 2, 1), none],
        (5, 0..=4) | (6, 0..=5) => [part(chunk, 0, bits, 0), none, none],
        (5, 5 | 6) => [part(chunk - 2, 5, 2, 0), part(chunk - 5, 5, 3, 2), none],
        (5, _) => [part(3, 7, 1, 0), part(4, 7, 1, 1), part(2, 5, 3, 2)],
        (6, _) => {
            let first = 3 * (chunk - 6);
            [part(first, 6, 2, 0), part(first + 1, 6, 2, 2), part(first + 2, 6, 2, 4)]
        }
        _ => [part(chunk, 0, 8, 0), none, none],
    }
}

impl Layout {
    /// The code at `lane` of chunk `chunk` of a step.
    #[inline(always)]
    pub(super) fn code(self, codes: &[u8], chunk: usize, lane: usize) -> u8 {
        let [a, b, c] = parts(self.bits, chunk)
            .map(|part| ((codes[64 * part.vector + lane] >> part.from) & part.mask) << part.to);
        a | b | c
    }

    /// Writes what [`Self::code`] reads, where all bits are 0; `codes` are (chunks, lanes).
    pub(super) fn write_codes(self, step: &mut [u8], codes: &[u8; 512]) {
        for (chunk, codes) in codes.chunks_exact(64).enumerate() {
            for part in parts(self.bits, chunk) {
                let vector = &mut step[64 * part.vector..][..64];
                for (byte, code) in vector.iter_mut().zip(codes) {
                    *byte |= ((code >> part.to) & part.mask) << part.from;
                }
            }
        }
    }
}
