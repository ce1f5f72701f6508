//! Slice-level maths on quantized blocks.

mod block;
mod rope;

pub use block::BlockType;
pub use rope::RopeStyle;
