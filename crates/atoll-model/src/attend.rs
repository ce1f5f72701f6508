//! How a pass's queries are dealt to the threads.

use std::ops::Range;

use atoll_kernels::{ATTENTION_TILE, QUERIES_MAX};

use crate::config::ModelConfig;

/// Consecutive rows of one sequence within a pass.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    /// Index of the sequence within the call.
    pub(crate) sequence: usize,
    /// First row within the pass.
    pub(crate) first: usize,
    /// Number of rows.
    pub(crate) rows: usize,
    /// Position of the first row.
    pub(crate) from_pos: usize,
}

/// Query columns that one call of the kernel takes: some query heads of one KV head, of some rows.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) sequence: usize,
    /// First row within the pass.
    pub(crate) row: usize,
    pub(crate) rows: usize,
    /// Position of the first row.
    pub(crate) pos: usize,
    pub(crate) kv_head: usize,
    /// Query heads.
    pub(crate) heads: Range<usize>,
    /// Indices of its tasks, by ascending positions.
    pub(crate) tasks: Range<usize>,
}

impl Group {
    /// For every column the positions that it sees; the number of columns. Columns are rows, then
    /// heads.
    pub(crate) fn lens(&self) -> ([usize; QUERIES_MAX], usize) {
        let mut lens = [0; QUERIES_MAX];
        let columns = self.rows * self.heads.len();
        for (column, len) in lens[..columns].iter_mut().enumerate() {
            *len = self.pos + column / self.heads.len() + 1;
        }
        (lens, columns)
    }

    /// The row of a column, and where its head begins in that row's queries.
    pub(crate) fn place(&self, column: usize, head_dim: usize) -> (usize, usize) {
        let (row, head) = (column / self.heads.len(), column % self.heads.len());
        (self.row + row, (self.heads.start + head) * head_dim)
    }
}

/// Some tiles of positions for a group.
#[derive(Debug, Clone)]
pub(crate) struct AttentionTask {
    pub(crate) group: usize,
    pub(crate) tiles: Range<usize>,
}

/// All groups and tasks of a pass; the same in every layer.
#[derive(Debug, Default)]
pub(crate) struct AttentionPlan {
    pub(crate) groups: Vec<Group>,
    pub(crate) tasks: Vec<AttentionTask>,
    /// Multiplications of a layer.
    pub(crate) work: usize,
}

impl AttentionPlan {
    /// Groups of a pass of `spans`. A group's tiles of positions are shared out if there are too
    /// few groups for `threads`; the kernels merge them to the same bits.
    pub(crate) fn new(config: &ModelConfig, spans: &[Span], threads: usize) -> Self {
        let per_kv_head = config.n_heads / config.n_kv_heads;
        let heads_max = per_kv_head.min(QUERIES_MAX);
        let rows_max = QUERIES_MAX / heads_max;
        let mut plan = Self::default();
        let rows: usize = spans.iter().map(|span| span.rows).sum();
        let is_split = threads > 1 && rows * config.n_kv_heads < 4 * threads;
        for span in spans {
            for first in (0..span.rows).step_by(rows_max) {
                let rows = rows_max.min(span.rows - first);
                for kv_head in 0..config.n_kv_heads {
                    let end = (kv_head + 1) * per_kv_head;
                    for head in (kv_head * per_kv_head..end).step_by(heads_max) {
                        let group = Group {
                            sequence: span.sequence,
                            row: span.first + first,
                            rows,
                            pos: span.from_pos + first,
                            kv_head,
                            heads: head..end.min(head + heads_max),
                            tasks: 0..0,
                        };
                        plan.push(group, is_split, config.head_dim);
                    }
                }
            }
        }
        plan
    }

    fn push(&mut self, mut group: Group, is_split: bool, head_dim: usize) {
        let len = group.pos + group.rows;
        let tiles = len.div_ceil(ATTENTION_TILE);
        let per_task = if is_split { 1 } else { tiles };
        let (index, first) = (self.groups.len(), self.tasks.len());
        for tile in (0..tiles).step_by(per_task) {
            self.tasks.push(AttentionTask { group: index, tiles: tile..tile + per_task });
        }
        group.tasks = first..self.tasks.len();
        self.work += 2 * len * head_dim * group.rows * group.heads.len();
        self.groups.push(group);
    }
}
