//! Rows in tiles: `(n_tiles, rows, TILE_ROWS)`, tiles running over the columns, as the kernels
//! write a product. What is behind the last column is zero. One row in tiles is a plain vector.

use atoll_kernels::TILE_ROWS;

/// Length of `rows` rows of `cols` columns.
pub(crate) const fn tiled_len(rows: usize, cols: usize) -> usize {
    cols.div_ceil(TILE_ROWS) * TILE_ROWS * rows
}

/// Copies the columns of `row` from column `from` on to `out`.
pub(crate) fn gather(tiles: &[f32], rows: usize, row: usize, from: usize, out: &mut [f32]) {
    let mut done = 0;
    while done < out.len() {
        let (at, n) = run(rows, row, from + done, out.len() - done);
        copy(&tiles[at..at + n], &mut out[done..done + n]);
        done += n;
    }
}

/// Copies `values` to the columns of `row` from column `from` on.
pub(crate) fn scatter(values: &[f32], tiles: &mut [f32], rows: usize, row: usize, from: usize) {
    let mut done = 0;
    while done < values.len() {
        let (at, n) = run(rows, row, from + done, values.len() - done);
        copy(&values[done..done + n], &mut tiles[at..at + n]);
        done += n;
    }
}

/// Copies as many numbers as there are; a whole tile's without calling for it.
fn copy(from: &[f32], to: &mut [f32]) {
    match (from.as_array::<TILE_ROWS>(), to.as_mut_array::<TILE_ROWS>()) {
        (Some(from), Some(to)) => *to = *from,
        _ => to.copy_from_slice(from),
    }
}

/// Where column `col` of `row` stands, and how many columns, at most `n`, stand there in a run.
const fn run(rows: usize, row: usize, col: usize, n: usize) -> (usize, usize) {
    let lane = col % TILE_ROWS;
    let here = if rows == 1 { n } else { TILE_ROWS - lane };
    let at = (col / TILE_ROWS * rows + row) * TILE_ROWS + lane;
    (at, if n < here { n } else { here })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gathering_finds_every_element_and_scattering_puts_it_back() {
        for (rows, cols) in [(1, 5), (1, 40), (3, 16), (7, 37)] {
            let mut tiles = vec![f32::NAN; tiled_len(rows, cols)];
            for row in 0..rows {
                for col in 0..cols {
                    let at = (col / TILE_ROWS * rows + row) * TILE_ROWS + col % TILE_ROWS;
                    tiles[at] = (row * 1000 + col) as f32;
                }
            }
            let mut copy = vec![f32::NAN; tiled_len(rows, cols)];
            for row in 0..rows {
                for from in [0, 3] {
                    let mut out = vec![0.0; cols - from];
                    gather(&tiles, rows, row, from, &mut out);
                    let expected = (from..cols).map(|col| (row * 1000 + col) as f32);
                    assert_eq!(out, expected.collect::<Vec<_>>());
                    scatter(&out, &mut copy, rows, row, from);
                }
            }
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&copy), bits(&tiles));
        }
    }
}
