//! Three small programs that use Atoll as a library; each is an example of this package:
//! `cargo run --release -p atoll-examples --example local`, `three_nodes`, `http_client`.
