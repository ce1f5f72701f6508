//! Freed memory between blocks that are in use goes back to the system. A process of its own, since
//! other tests' memory would count.
#![cfg(all(target_os = "linux", target_env = "gnu"))]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;

/// Below what the allocator takes from the system by itself, so that it comes from a heap.
const LARGE: usize = 512 << 10;
const PAIRS: usize = 64;

fn resident_bytes() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn what_lies_between_blocks_in_use_is_given_back() {
    atoll_model::heap::give_back_freed_memory();
    let pairs: Vec<_> = (0..PAIRS).map(|_| (vec![1_u8; LARGE], vec![1_u8; 256])).collect();
    let small: Vec<_> = pairs.into_iter().map(|(_freed, small)| small).collect();
    let kept = resident_bytes();
    atoll_model::heap::give_back_now();
    let left = resident_bytes();
    assert!(kept - left > PAIRS * LARGE / 2, "{kept} bytes before, {left} after");
    assert!(small.iter().all(|block| block.iter().all(|byte| *byte == 1)), "blocks in use stay");
}
