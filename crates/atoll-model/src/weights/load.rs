//! Tensors become weights: packed side by side into one piece of memory, their file left behind.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use atoll_kernels::{Memory, PACKED_ALIGN, PackedMatrix, pack_into, packed_bytes};

use super::{EMBED, LoadProgress, POSITIONS, Part, TOKEN_TYPES};
use crate::error::ModelError;
use crate::mapped::large_memory;
use crate::pool::Pool;
use crate::tensor::{StoredTensor, TensorSource};
use crate::tiles::tiled_len;

/// Bytes of the file that are packed before their memory is given back: few enough to matter
/// nowhere, many enough that asking the system costs nothing beside packing.
const FORGET_BYTES: usize = 1 << 20;

/// The loaded tensors of a part, by name, until each has found its place.
pub(super) struct Tensors(BTreeMap<String, Loaded>);

enum Loaded {
    Vector(Vec<f32>),
    Matrix(PackedMatrix),
    /// Read in rows where they are.
    Stored(StoredTensor),
}

/// A tensor to load.
struct Task<'a> {
    stored: StoredTensor,
    /// Where a matrix is packed to; empty for others.
    to: &'a mut [u8],
    /// Where `to` begins in the memory of all.
    start: usize,
    /// A vector's numbers.
    vector: Vec<f32>,
    outcome: Result<(), ModelError>,
}

/// What has been loaded so far, and who wants to know.
struct Told<'a> {
    tell: &'a mut (dyn FnMut(LoadProgress) + Send),
    at: LoadProgress,
}

impl Tensors {
    /// Loads the tensors of `part` on the threads of `pool`.
    pub(super) fn load(
        source: &TensorSource,
        part: &Part,
        pool: &Pool,
        progress: &mut (dyn FnMut(LoadProgress) + Send),
    ) -> Result<Self, ModelError> {
        let is_packed = part.head && source.config().tied;
        let is_read_in_rows =
            |name: &str| (name == EMBED && !is_packed) || name == POSITIONS || name == TOKEN_TYPES;
        let mut all = Vec::new();
        for spec in part.tensors(source.config()) {
            source.require_shape(&spec.name, spec.rows, spec.cols)?;
            let stored = source.stored(&spec.name).expect("its shape was just looked at");
            let is_packed = !is_vector(&spec.name) && !is_read_in_rows(&spec.name);
            let room = if is_packed { packed_len(&stored) } else { 0 };
            all.push((stored, room));
        }
        // The largest first: the threads end at about the same time.
        all.sort_by_key(|(stored, _)| Reverse(stored.tensor().bytes.len()));
        let padded = |room: usize| room.next_multiple_of(PACKED_ALIGN);
        // All in one piece, so that small matrices lie in large pages, too.
        let mut memory = large_memory(all.iter().map(|&(_, room)| padded(room)).sum())?;
        let (mut start, mut rest) = (0, &mut memory[..]);
        let mut tasks = Vec::with_capacity(all.len());
        for (stored, room) in all {
            let (here, after) = rest.split_at_mut(padded(room));
            let (to, vector) = (&mut here[..room], Vec::new());
            tasks.push(Task { stored, to, start, vector, outcome: Ok(()) });
            (rest, start) = (after, start + padded(room));
        }
        let bytes = |task: &Task<'_>| task.stored.tensor().bytes.len() as u64;
        let at = LoadProgress { bytes_done: 0, bytes_total: tasks.iter().map(bytes).sum() };
        let told = Mutex::new(Told { tell: progress, at });
        pool.for_each(&mut tasks, |task| {
            task.outcome = task.run();
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            told.at.bytes_done += bytes(task);
            let at = told.at;
            (told.tell)(at);
        });
        let done = tasks.into_iter().map(|Task { stored, start, vector, outcome, .. }| {
            outcome.map(|()| (stored, start, vector))
        });
        let done = done.collect::<Result<Vec<_>, _>>()?;
        let memory: Arc<dyn Memory> = Arc::new(memory);
        let named = |(stored, start, vector): (StoredTensor, usize, _)| {
            let info = stored.info();
            let (name, shape) = (info.name.clone(), (info.dtype, info.rows, info.cols));
            let loaded = if is_vector(&name) {
                Loaded::Vector(vector)
            } else if is_read_in_rows(&name) {
                Loaded::Stored(stored)
            } else {
                let memory = Arc::clone(&memory);
                // A task fails if a number is not finite.
                Loaded::Matrix(PackedMatrix::packed_in(memory, start, shape, true))
            };
            (name, loaded)
        };
        Ok(Self(done.into_iter().map(named).collect()))
    }

    fn take(&mut self, name: &str) -> Result<Loaded, ModelError> {
        self.0.remove(name).ok_or_else(|| ModelError::MissingTensor { name: name.to_owned() })
    }

    /// The vector, if the configuration asked for it.
    pub(super) fn optional_vector(&mut self, name: &str) -> Result<Option<Vec<f32>>, ModelError> {
        self.0.contains_key(name).then(|| self.vector(name)).transpose()
    }

    /// A vector that meets whole rows, in tiles: the weights of a norm, a bias.
    pub(super) fn tiled(&mut self, name: &str) -> Result<Vec<f32>, ModelError> {
        let mut vector = self.vector(name)?;
        vector.resize(tiled_len(1, vector.len()), 0.0);
        Ok(vector)
    }

    fn vector(&mut self, name: &str) -> Result<Vec<f32>, ModelError> {
        match self.take(name)? {
            Loaded::Vector(vector) => Ok(vector),
            Loaded::Matrix(_) | Loaded::Stored(_) => {
                Err(ModelError::malformed(name, "a vector was expected"))
            }
        }
    }

    pub(super) fn matrix(&mut self, name: &str) -> Result<PackedMatrix, ModelError> {
        match self.take(name)? {
            Loaded::Matrix(matrix) => Ok(matrix),
            Loaded::Vector(_) | Loaded::Stored(_) => {
                Err(ModelError::malformed(name, "a matrix was expected"))
            }
        }
    }

    /// The matrix that is read in rows.
    pub(super) fn stored(&mut self, name: &str) -> Result<StoredTensor, ModelError> {
        match self.take(name)? {
            Loaded::Stored(tensor) => Ok(tensor),
            Loaded::Vector(_) | Loaded::Matrix(_) => {
                Err(ModelError::malformed(name, "a matrix that is read in rows was expected"))
            }
        }
    }
}

impl Task<'_> {
    /// Packs a matrix or widens a vector, refusing numbers that are not finite.
    fn run(&mut self) -> Result<(), ModelError> {
        let (stored, info) = (&self.stored, self.stored.info());
        let bytes = stored.tensor().bytes;
        let is_finite = if is_vector(&info.name) {
            self.vector = stored.tensor().to_floats()?;
            stored.forget(0..bytes.len());
            self.vector.iter().all(|value| value.is_finite())
        } else if self.to.is_empty() {
            let finite = atoll_kernels::scales_finite(info.dtype, bytes);
            stored.forget(0..bytes.len());
            finite
        } else {
            let mut forgotten = 0;
            let mut forget = |packed: usize| {
                if packed - forgotten >= FORGET_BYTES || packed == bytes.len() {
                    stored.forget(forgotten..packed);
                    forgotten = packed;
                }
            };
            pack_into(info.dtype, info.rows, info.cols, bytes, self.to, &mut forget)
        };
        if is_finite {
            return Ok(());
        }
        let what = format!("tensor {}", info.name);
        Err(ModelError::malformed(what, "it holds a number that is not finite"))
    }
}

fn is_vector(name: &str) -> bool {
    name.ends_with("norm.weight") || name.ends_with(".bias")
}

/// Bytes of the packed form of a matrix.
fn packed_len(stored: &StoredTensor) -> usize {
    let info = stored.info();
    packed_bytes(info.dtype, info.rows, info.cols)
}
