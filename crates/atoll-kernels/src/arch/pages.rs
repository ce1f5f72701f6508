//! Large pages for large memory: a product with one row reads every weight once, and with pages of
//! 4 KiB it waits for their addresses to be looked up.

/// Asks the system to back `memory` with huge pages as it is first written; whether it does is the
/// system's affair. Of no use once the memory has been written.
#[cfg(target_os = "linux")]
pub fn want_huge_pages(memory: &mut [u8]) {
    use core::ffi::{c_int, c_void};

    /// A multiple of every page size of Linux, below which advice is refused.
    const PAGE_BYTES: usize = 64 << 10;
    /// Less than a huge page holds none.
    const HUGE_PAGE_BYTES: usize = 2 << 20;
    const MADV_HUGEPAGE: c_int = 14;

    unsafe extern "C" {
        fn madvise(start: *mut c_void, bytes: usize, advice: c_int) -> c_int;
    }

    let lead = memory.as_ptr().align_offset(PAGE_BYTES);
    let bytes = memory.len().saturating_sub(lead) / PAGE_BYTES * PAGE_BYTES;
    if bytes >= HUGE_PAGE_BYTES {
        let start = memory[lead..].as_mut_ptr().cast();
        // SAFETY: `start` and `bytes` are whole pages within `memory`, which nobody else uses
        // meanwhile; this advice changes neither what the memory holds nor what may be done with
        // it. A refusal changes nothing, so that the result does not matter.
        let _ = unsafe { madvise(start, bytes, MADV_HUGEPAGE) };
    }
}

/// Does nothing: only Linux is asked.
#[cfg(not(target_os = "linux"))]
pub const fn want_huge_pages(_memory: &mut [u8]) {}
