//! What holds between the crates, and what the binary does for its user.
//!
//! One test binary for the whole workspace. `layering` and `tidy` read the sources; everything
//! else runs the real `atoll` with real models. A test that cannot run here says so on stderr,
//! beginning with `SKIPPED`, and why.
#![expect(clippy::unwrap_used, reason = "tests")]

mod atoll;
mod models;
mod random;
mod workspace;

mod layering;
mod tidy;

mod bad_input;
mod encoder;
mod examples;
mod gateway;
mod local;
mod logprobs;
mod memory;
mod mesh;
mod netns;
mod recovery;
mod signals;
mod sim;
mod top;
