#![expect(clippy::unwrap_used, reason = "tests")]

use quickcheck::quickcheck;

use super::*;
use crate::tiny::Random;

fn info(name: &str, dtype: BlockType, rows: usize, cols: usize) -> TensorInfo {
    TensorInfo { name: name.to_owned(), dtype, rows, cols }
}

fn small_blob() -> Vec<u8> {
    let (norm, matrix) = (info("n", BlockType::F32, 1, 2), info("w", BlockType::Q8_0, 2, 32));
    let norm_bytes = [1.0_f32.to_le_bytes(), (-2.0_f32).to_le_bytes()].concat();
    let matrix_bytes: Vec<u8> = (0..68).collect();
    encode(
        BlobKind::Layer(7),
        &[
            Tensor { info: &norm, bytes: &norm_bytes },
            Tensor { info: &matrix, bytes: &matrix_bytes },
        ],
    )
}

#[test]
fn bytes_are_the_golden_ones() {
    let mut expected = vec![1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0];
    expected.extend([1, 0, 0, 0, b'n', 0, 0, 0, 0]);
    expected.extend([1_u64, 2, 128].iter().flat_map(|n| n.to_le_bytes()));
    expected.extend([1, 0, 0, 0, b'w', 8, 0, 0, 0]);
    expected.extend([2_u64, 32, 192].iter().flat_map(|n| n.to_le_bytes()));
    expected.resize(128, 0);
    expected.extend([0, 0, 0x80, 0x3F, 0, 0, 0, 0xC0]);
    expected.resize(192, 0);
    expected.extend(0..68);
    assert_eq!(small_blob(), expected);
    let hash = "2ae6fb97313b93a6b98299d8f2adae82c5896c71295db6a060e3f58bc86defe2";
    assert_eq!(BlobHash::of(&expected).to_string(), hash);
}

#[test]
fn reads_what_was_written() {
    let blob = ShardBlob::parse(small_blob()).unwrap();
    assert_eq!(blob.tensors().len(), 2);
    assert_eq!(blob.tensor(0).to_floats().unwrap(), [1.0, -2.0]);
    assert_eq!(blob.tensor(1).bytes, (0..68).collect::<Vec<u8>>());
}

fn check_refused(change: impl Fn(&mut Vec<u8>), expected: &str) {
    let mut bytes = small_blob();
    change(&mut bytes);
    let error = ShardBlob::parse(bytes).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn spoilt_blobs_are_errors() {
    check_refused(|bytes| bytes.clear(), "truncated: version of the shard blob");
    check_refused(|bytes| bytes[0] = 2, "unsupported shard blob version 2");
    check_refused(|bytes| bytes[4] = 3, "unknown kind 3");
    check_refused(|bytes| bytes[8] = 255, "number of tensors of a shard blob is 255");
    check_refused(|bytes| bytes[15] = 255, "length of a tensor's name is");
    check_refused(|bytes| bytes[16] = 0xFF, "malformed tensor name: not UTF-8");
    check_refused(|bytes| bytes[17] = 99, "block type: ggml type 99 of tensor n");
    check_refused(|bytes| bytes[28] = 1, "rows of tensor n is");
    check_refused(|bytes| bytes[21] = 0, "malformed tensor n: it is empty");
    check_refused(|bytes| bytes[21] = 100, "malformed tensor w: it is at 192, not at 960");
    check_refused(|bytes| bytes[37] = 64, "malformed tensor n: it is at 64, not at 128");
    check_refused(|bytes| bytes.push(0), "1 bytes follow its end");
    check_refused(|bytes| bytes.truncate(259), "truncated: shard blob at byte 0 needs 260");
}

#[test]
fn hashes_are_written_in_small_letters() {
    let hash = BlobHash::of(b"");
    let text = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
    assert_eq!(hash.to_string(), text);
    assert_eq!(BlobHash::try_from(text.to_owned()).unwrap(), hash);
    assert!(BlobHash::try_from(text.to_uppercase()).is_err());
    assert!(BlobHash::try_from(text[1..].to_owned()).is_err());
    let error = hash.verify("layer 3", b"x").unwrap_err().to_string();
    assert!(error.starts_with("integrity: layer 3 has hash "), "{error}");
}

quickcheck! {
    fn mutated_blobs_never_panic(seed: u64) -> bool {
        let mut bytes = small_blob();
        let mut random = Random(seed);
        for _ in 0..=random.next() % 4 {
            let at = usize::try_from(random.next() % bytes.len() as u64).unwrap();
            match random.next() % 3 {
                0 => bytes[at] = random.next().to_le_bytes()[0],
                1 => bytes[at] ^= 1 << (random.next() % 8),
                _ => bytes.truncate(at.max(1)),
            }
        }
        ShardBlob::parse(bytes).map_or(true, |blob| blob.tensors().len() <= 2)
    }
}
