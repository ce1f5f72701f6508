//! Memory that was freed goes back to the system.

/// Allocations from so many bytes on are of their own, and are the system's again when freed: above
/// what a step of decoding allocates, so that it never waits for the system. Eight sequences have
/// 5 MB of logits where there are 150,000 tokens; from 640 kB on, four of them together took a
/// tenth longer.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const OWN_BYTES_MIN: i32 = 8 << 20;
/// Free bytes that a heap keeps at its end, for the next step.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES_MAX: i32 = 8 << 20;
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

/// Gives back what was freed between blocks that are still in use, in all heaps: what
/// [`give_back_freed_memory`] cannot reach, since a heap shrinks at its end only. It takes some
/// milliseconds, in which other threads wait for memory: for the rare moment when much was freed.
/// Does nothing with other C libraries.
#[cfg_attr(
    all(target_os = "linux", target_env = "gnu"),
    expect(unsafe_code, reason = "the C library has no other way to say it")
)]
pub fn give_back_now() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `malloc_trim` takes a number and locks the heaps it goes over.
    let _ = unsafe { libc::malloc_trim(0) };
}
