//! The byte-level alphabet of GPT-2: one printable character for each byte.
//!
//! Source: Radford et al. 2019, the released `bytes_to_unicode`: bytes that are printable in
//! Latin-1 stand for themselves, the others take the code points from 256 up in ascending order.

/// Whether a byte stands for itself.
const fn printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// The character that stands for `byte`.
pub(crate) fn byte_char(byte: u8) -> char {
    if printable(byte) {
        return byte.into();
    }
    let rank = (0..byte).filter(|&earlier| !printable(earlier)).count();
    char::from_u32(256 + u32::try_from(rank).expect("a rank below 256"))
        .expect("256 to 323 are characters")
}

/// The byte that `c` stands for, if it is of the alphabet.
pub(crate) fn char_byte(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ 0..=255 => u8::try_from(code).ok().filter(|&byte| printable(byte)),
        code @ 256..=323 => {
            let mut rank = code - 256;
            (0..=255_u8).filter(|&byte| !printable(byte)).find(|_| {
                let found = rank == 0;
                rank = rank.wrapping_sub(1);
                found
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{byte_char, char_byte};

    #[test]
    fn every_byte_has_its_own_character() {
        let chars: std::collections::BTreeSet<_> = (0..=255).map(byte_char).collect();
        assert_eq!(chars.len(), 256);
        assert!((0..=255).all(|byte| char_byte(byte_char(byte)) == Some(byte)));
        assert_eq!(byte_char(b' '), 'Ġ');
        assert_eq!(byte_char(b'\n'), 'Ċ');
        assert_eq!(char_byte('Ń'), Some(0xAD));
        assert_eq!(char_byte('€'), None);
    }
}
