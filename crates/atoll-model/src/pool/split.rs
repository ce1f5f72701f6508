//! Slices that fall into parts, each for one task.
#![expect(unsafe_code, reason = "tasks on several threads change disjoint parts of a slice")]

use std::marker::PhantomData;

/// What the tasks of a job may change: part `i` belongs to task `i`.
///
/// # Safety
/// Parts of different indices must not overlap.
pub(crate) unsafe trait Split: Sync {
    /// What one task gets.
    type Part;

    /// Number of parts.
    fn n_parts(&self) -> usize;

    /// Part `index`.
    ///
    /// # Safety
    /// At most once for every index.
    unsafe fn part(&self, index: usize) -> Self::Part;
}

/// A slice in parts of one length; the last may be shorter.
#[derive(Debug)]
pub(crate) struct Parts<'a, T> {
    start: *mut T,
    len: usize,
    part_len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: sharing it lets other threads take parts, as sending them the parts would.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    /// Cuts `slice` into parts of `part_len`, at least 1.
    pub(crate) fn new(slice: &'a mut [T], part_len: usize) -> Self {
        assert!(part_len > 0, "parts hold something");
        let (start, len) = (slice.as_mut_ptr(), slice.len());
        Self { start, len, part_len, slice: PhantomData }
    }
}

// SAFETY: part `i` is `i * part_len..(i + 1) * part_len`, cut off at the slice's end, so empty
// beyond it.
unsafe impl<'a, T: Send> Split for Parts<'a, T> {
    type Part = &'a mut [T];

    fn n_parts(&self) -> usize {
        self.len.div_ceil(self.part_len)
    }

    unsafe fn part(&self, index: usize) -> &'a mut [T] {
        let from = index.saturating_mul(self.part_len).min(self.len);
        let len = self.part_len.min(self.len - from);
        // SAFETY: `from` is at most the slice's length.
        let start = unsafe { self.start.add(from) };
        // SAFETY: the range is inside the slice, which is borrowed for 'a, and no other part has
        // it; the caller takes every part once.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }
}

// SAFETY: as its members. The first decides how many parts there are.
unsafe impl<A: Split, B: Split> Split for (A, B) {
    type Part = (A::Part, B::Part);

    fn n_parts(&self) -> usize {
        self.0.n_parts()
    }

    unsafe fn part(&self, index: usize) -> Self::Part {
        // SAFETY: the caller's duty.
        let first = unsafe { self.0.part(index) };
        // SAFETY: the caller's duty.
        (first, unsafe { self.1.part(index) })
    }
}
