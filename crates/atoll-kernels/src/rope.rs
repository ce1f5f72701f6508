//! Rotary position embedding.

/// Which two dimensions of a head make a pair that is turned together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RopeStyle {
    /// Neighbours: (2i, 2i + 1).
    Norm,
    /// Halves: (i, i + n_dims / 2).
    Neox,
}
