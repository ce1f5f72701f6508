//! Large weights ask for huge pages.
//!
//! Only on x86-64: where other architectures are emulated, such advice goes no further.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use atoll_kernels::{BlockType, PackedMatrix};

/// Bytes of this process's memory that is marked for huge pages (`hg`), if the system has any.
fn advised_bytes() -> Option<usize> {
    std::fs::metadata("/sys/kernel/mm/transparent_hugepage").ok()?;
    let (mut bytes, mut kib) = (0, 0);
    for line in std::fs::read_to_string("/proc/self/smaps").ok()?.lines() {
        if let Some(size) = line.strip_prefix("Size:") {
            kib = size.trim().strip_suffix(" kB")?.trim().parse().ok()?;
        } else if line.starts_with("VmFlags:") && line.split(' ').any(|flag| flag == "hg") {
            bytes += kib * 1024;
        }
    }
    Some(bytes)
}

#[test]
fn large_weights_ask_for_huge_pages_and_small_ones_do_not() {
    let pack = |rows: usize| {
        let blocks = vec![0x11; rows * BlockType::Q8_0.row_bytes(4096)];
        PackedMatrix::pack(BlockType::Q8_0, rows, 4096, &blocks)
    };
    let Some(before) = advised_bytes() else {
        return; // a system without huge pages
    };
    let small = pack(160);
    assert!(small.bytes() < 2 << 20);
    assert_eq!(advised_bytes(), Some(before));
    let large = pack(4096);
    let advised = advised_bytes().expect("as before") - before;
    // All but what does not fill pages of 64 KiB at both ends.
    assert!(advised + (128 << 10) >= large.bytes(), "{advised} of {}", large.bytes());
    assert!(advised <= large.bytes() + 64, "{advised} of {}", large.bytes());
}
