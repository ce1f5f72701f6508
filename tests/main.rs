//! What holds between the crates, and what the binary does for its user.
//!
//! One test binary for the whole workspace. `layering` and `tidy` read the sources; everything
//! else runs the real `atoll` with real models. A test that cannot run here says so on stderr,
//! beginning with `SKIPPED`, and why.
#![expect(clippy::print_stderr, reason = "tests: what is skipped is said loudly")]
#![expect(clippy::unwrap_used, reason = "tests")]

mod workspace;

mod layering;
mod tidy;
