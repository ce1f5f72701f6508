//! Text to token ids and back.

mod alphabet;

pub(crate) use alphabet::byte_char;
