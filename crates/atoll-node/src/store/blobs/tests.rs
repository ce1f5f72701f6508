#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;

fn store() -> (tempfile::TempDir, Blobs) {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path().join("blobs")).unwrap();
    (dir, blobs)
}

fn put(blobs: &Blobs, bytes: &[u8]) -> BlobHash {
    let hash = BlobHash::of(bytes);
    blobs.put(hash, bytes).unwrap();
    hash
}

#[test]
fn put_then_read_gives_the_same_bytes() {
    let (_dir, blobs) = store();
    let hash = put(&blobs, b"weights");
    assert_eq!(blobs.read(hash).unwrap(), b"weights");
    assert_eq!(put(&blobs, b"weights"), hash);
    assert_eq!(blobs.hashes().unwrap(), [hash]);
    blobs.verify(hash).unwrap();
    blobs.remove(hash).unwrap();
    assert!(matches!(blobs.read(hash), Err(NodeError::MissingBlob(h)) if h == hash));
}

#[test]
fn a_flipped_bit_is_found() {
    let (_dir, blobs) = store();
    let hash = put(&blobs, &[7; 5000]);
    let mut bytes = fs::read(blobs.path(hash)).unwrap();
    bytes[4321] ^= 0x10;
    fs::write(blobs.path(hash), bytes).unwrap();
    assert!(matches!(blobs.read(hash), Err(NodeError::CorruptBlob(h)) if h == hash));
    assert!(matches!(blobs.verify(hash), Err(NodeError::CorruptBlob(h)) if h == hash));
}

#[test]
fn a_partial_blob_goes_on_where_it_stopped() {
    let (_dir, blobs) = store();
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    let hash = BlobHash::of(&bytes);
    let total = bytes.len() as u64;
    let mut partial = blobs.resume(hash, total).unwrap();
    partial.append(&bytes[..1_234_567]).unwrap();
    drop(partial);
    assert_eq!(blobs.len(hash), None);
    assert_eq!(blobs.len_so_far(hash), 1_234_567);
    let mut partial = blobs.resume(hash, total).unwrap();
    assert_eq!(partial.len(), 1_234_567);
    partial.append(&bytes[1_234_567..]).unwrap();
    partial.finish().unwrap();
    assert_eq!(blobs.read(hash).unwrap(), bytes);
}

#[test]
fn wrong_bytes_never_get_the_final_name() {
    let (_dir, blobs) = store();
    let hash = BlobHash::of(b"right");
    let mut partial = blobs.resume(hash, 5).unwrap();
    partial.append(b"wrong").unwrap();
    assert!(matches!(partial.finish(), Err(NodeError::CorruptBlob(_))));
    assert_eq!((blobs.len(hash), blobs.len_so_far(hash)), (None, 0));
}

#[test]
fn a_crash_while_writing_leaves_nothing() {
    let (dir, blobs) = store();
    let hash = put(&blobs, b"whole");
    let leftover = blobs.path(hash).with_extension("new-3");
    fs::write(&leftover, b"who").unwrap();
    drop(blobs);
    let blobs = Blobs::open(dir.path().join("blobs")).unwrap();
    assert!(!leftover.exists());
    assert_eq!(blobs.hashes().unwrap(), [hash]);
}
