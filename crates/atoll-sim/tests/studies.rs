//! The examples run and find what they say.

#[path = "../examples/own_fault.rs"]
mod own_fault;
#[path = "../examples/own_invariant.rs"]
mod own_invariant;
#[path = "../examples/own_placement.rs"]
mod own_placement;

#[test]
fn an_invariant_of_ones_own_is_held_against_every_event() {
    own_invariant::main();
}

#[test]
fn a_fault_of_ones_own_strikes_and_all_is_answered() {
    own_fault::main();
}

#[test]
fn a_placement_of_ones_own_is_placed_and_compared() {
    own_placement::main();
}
