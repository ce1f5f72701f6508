//! Asks for lines of the cache: hints that read nothing, so that any address will do.

/// How many bytes ahead of what is read weights are asked for: on Zen 4 the best of 2.5 to 10 KiB
/// for Q4_1, Q6_K and Q8_0 and 4, 8 and 16 rows; on Sapphire Rapids 4 to 32 KiB do alike.
pub(crate) const AHEAD: usize = 8 * 1024;

/// A run of memory and what is read after it, so that its end asks for what comes next.
#[derive(Clone, Copy)]
pub(crate) struct Way {
    end: usize,
    next: usize,
}

impl Way {
    /// `run`, then `next`, which is what stands behind `run` if there is nothing said.
    pub(crate) fn new(run: &[u8], next: Option<&[u8]>) -> Self {
        let end = run.as_ptr_range().end.addr();
        Self { end, next: next.map_or(end, |next| next.as_ptr().addr()) }
    }

    /// Asks for `bytes` bytes that are read [`AHEAD`] after those at `at`, which lies in the run.
    #[inline(always)]
    pub(crate) fn ask(self, at: *const u8, bytes: usize) {
        let is_over = at.addr() + AHEAD >= self.end;
        let jump = if is_over { self.next.wrapping_sub(self.end) } else { 0 };
        ask(at.wrapping_add(AHEAD.wrapping_add(jump)), bytes);
    }
}

/// Asks for `bytes` bytes from `first`.
#[inline(always)]
pub(crate) fn ask(first: *const u8, bytes: usize) {
    for line in 0..bytes.div_ceil(64) {
        far(first.wrapping_add(64 * line));
    }
}

/// Asks for the line at `at` for the L2 cache. Does nothing on machines that are not known.
#[inline(always)]
pub(crate) fn far(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint reads nothing.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T1 }>(at.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above. (The intrinsic is not stable.)
    unsafe {
        core::arch::asm!(
            "prfm pldl2keep, [{at}]",
            at = in(reg) at,
            options(readonly, nostack, preserves_flags),
        );
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}

/// Asks for the line at `at` for the L1 cache.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
pub(crate) fn near(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint reads nothing.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        core::arch::asm!(
            "prfm pldl1keep, [{at}]",
            at = in(reg) at,
            options(readonly, nostack, preserves_flags),
        );
    }
}
