//! A model whose every layer is a hash over (layer, position, input, KV digest).

/// Layers of the standard model.
pub(crate) const LAYERS: u16 = 12;
/// The vocabulary.
const VOCABULARY: u64 = 50_000;

/// One hash of several words.
pub(crate) fn mix(words: &[u64]) -> u64 {
    words.iter().fold(0x51_7c_c1_b7_27_22_0a_95, |state, word| {
        let mut z = (state ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// One row through one layer; `kv` is the digest of all rows that the layer has seen.
pub(crate) fn layer(index: u16, pos: u32, input: u64, kv: &mut u64) -> u64 {
    *kv = mix(&[*kv, input]);
    mix(&[u64::from(index), u64::from(pos), input, *kv])
}

/// The token of a row.
pub(crate) fn head(row: u64) -> u32 {
    u32::try_from(mix(&[row, 7]) % VOCABULARY).expect("the vocabulary is small")
}

/// The tokens that follow `prompt`: what any placement must give.
#[must_use]
pub fn oracle(prompt: &[u32], n: usize) -> Vec<u32> {
    oracle_of(LAYERS, prompt, n)
}

/// The same of a model with so many layers.
pub(crate) fn oracle_of(layers: u16, prompt: &[u32], n: usize) -> Vec<u32> {
    let mut kv = vec![0; usize::from(layers)];
    let mut tokens = prompt.to_vec();
    for pos in 0..prompt.len() + n.saturating_sub(1) {
        let mut row = u64::from(tokens[pos]);
        for (index, kv) in (0..layers).zip(&mut kv) {
            row = layer(index, u32::try_from(pos).expect("short"), row, kv);
        }
        if pos + 1 >= prompt.len() {
            tokens.push(head(row));
        }
    }
    tokens.split_off(prompt.len())
}
