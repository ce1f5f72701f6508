//! What a user or a stranger can get wrong: each ends with an error that names what, why and what
//! to try, with its exit code, without a panic and without half a state.

mod disk;
mod files;
mod network;
mod prompts;
mod pull;
mod strangers;
