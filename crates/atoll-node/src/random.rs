//! Randomness from the system, for names that must not be guessed or met twice.

/// `N` random bytes.
///
/// # Panics
/// If the system has no randomness, without which no key could have been made either.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system gives randomness");
    bytes
}
