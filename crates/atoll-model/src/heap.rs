//! Memory that was freed goes back to the system.

/// Allocations from so many bytes on are of their own, and are the system's again when freed: above
/// what a step of decoding allocates (logits of 150,000 tokens have 600 kB), so that it never waits
/// for the system.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const OWN_BYTES_MIN: i32 = 640 << 10;
/// Free bytes that a heap keeps at its end.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES_MAX: i32 = 1 << 20;
/// Heaps of the process, which its threads share: each keeps what it freed in its midst.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const HEAPS_MAX: i32 = 2;

/// Has the C library's allocator give freed memory back. Left alone, glibc keeps up to twice the
/// largest block that was ever freed, in each of up to eight heaps per processor: a node that
/// fetched its layers once then holds megabytes of nothing until it ends, and more whenever another
/// of its threads fetches. For programs, at their start; does nothing with other C libraries.
#[cfg_attr(
    all(target_os = "linux", target_env = "gnu"),
    expect(unsafe_code, reason = "the C library has no other way to say it")
)]
pub fn give_back_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (name, value, option) in [
        ("M_MMAP_THRESHOLD", OWN_BYTES_MIN, libc::M_MMAP_THRESHOLD),
        ("M_TRIM_THRESHOLD", KEPT_BYTES_MAX, libc::M_TRIM_THRESHOLD),
        ("M_ARENA_MAX", HEAPS_MAX, libc::M_ARENA_MAX),
    ] {
        // SAFETY: `mallopt` takes numbers, checks them, and locks what it changes.
        if unsafe { libc::mallopt(option, value) } != 1 {
            tracing::debug!(name, value, "the allocator keeps its own way");
        }
    }
}
