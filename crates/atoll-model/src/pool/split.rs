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

/// A matrix, `(rows, cols)`, row-major, in parts of some columns of every row; the last may have
/// fewer.
#[derive(Debug)]
pub(crate) struct Columns<'a, T> {
    start: *mut T,
    rows: usize,
    cols: usize,
    part_cols: usize,
    matrix: PhantomData<&'a mut [T]>,
}

/// A part of [`Columns`].
#[derive(Debug)]
pub(crate) struct ColumnsPart<'a, T> {
    /// Its first column of the first row.
    start: *mut T,
    rows: usize,
    cols: usize,
    /// Columns of the whole matrix.
    stride: usize,
    matrix: PhantomData<&'a mut [T]>,
}

// SAFETY: as for `Parts`.
unsafe impl<T: Send> Sync for Columns<'_, T> {}

impl<'a, T> Columns<'a, T> {
    /// Cuts `matrix`, `rows` rows of one length, into parts of `part_cols` columns, at least 1.
    pub(crate) fn new(matrix: &'a mut [T], rows: usize, part_cols: usize) -> Self {
        assert!(part_cols > 0, "parts hold something");
        let cols = matrix.len() / rows.max(1);
        assert_eq!(rows * cols, matrix.len(), "rows of one length");
        Self { start: matrix.as_mut_ptr(), rows, cols, part_cols, matrix: PhantomData }
    }
}

// SAFETY: part `i` is columns `i * part_cols..(i + 1) * part_cols`, cut off at the last column.
unsafe impl<'a, T: Send> Split for Columns<'a, T> {
    type Part = ColumnsPart<'a, T>;

    fn n_parts(&self) -> usize {
        self.cols.div_ceil(self.part_cols)
    }

    unsafe fn part(&self, index: usize) -> ColumnsPart<'a, T> {
        let from = index.saturating_mul(self.part_cols).min(self.cols);
        let cols = self.part_cols.min(self.cols - from);
        // SAFETY: `from` is at most the length of the first row, and of the matrix if it is empty.
        let start = unsafe { self.start.add(from) };
        ColumnsPart { start, rows: self.rows, cols, stride: self.cols, matrix: PhantomData }
    }
}

impl<T> ColumnsPart<'_, T> {
    /// Number of columns.
    pub(crate) const fn cols(&self) -> usize {
        self.cols
    }

    /// Its columns of a row.
    ///
    /// # Panics
    /// If there is no such row.
    pub(crate) fn row(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        // SAFETY: row `row` of the matrix begins `row * stride` elements behind the first.
        let start = unsafe { self.start.add(row * self.stride) };
        // SAFETY: the range is inside that row; the matrix is borrowed, no other part has these
        // columns, and `self` is borrowed for as long as the slice.
        unsafe { std::slice::from_raw_parts_mut(start, self.cols) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_columns_have_every_element_once() {
        for (rows, cols, part_cols) in [(1, 7, 3), (3, 8, 4), (2, 5, 9), (4, 0, 1), (0, 0, 2)] {
            let mut matrix = vec![usize::MAX; rows * cols];
            let split = Columns::new(&mut matrix, rows, part_cols);
            let mut first = 0;
            for index in 0..split.n_parts() {
                // SAFETY: every part once.
                let mut part = unsafe { split.part(index) };
                for row in 0..rows {
                    for (col, value) in part.row(row).iter_mut().enumerate() {
                        assert_eq!(*value, usize::MAX, "no two parts have it");
                        *value = row * cols + first + col;
                    }
                }
                first += part.cols();
            }
            assert_eq!(matrix, (0..rows * cols).collect::<Vec<_>>());
        }
    }
}
