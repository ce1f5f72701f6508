use super::*;
use crate::deployment::tests::{ID, ME, OTHER, in_force};
use crate::io::{Activation, HopTime, WireType};
use crate::planted::Planted;

/// A prompt of ten tokens in chunks of four, under way over this node and another.
fn active(tools: &mut Tools<'_>) -> Active {
    let request = Request {
        id: RequestId(7),
        model: ID,
        session: SessionId(1),
        prompt: vec![5; 10],
        max_tokens: 1,
        stop_tokens: vec![],
        prefill_chunk: 4,
        sampling: vec![],
        deadline_us: 1,
    };
    let PlanState::Ready(plan) = in_force(64).state else { panic!("in force") };
    let mut active = Active::new(ME, Time(1), request, (plan, 1));
    active.begin(tools);
    active
}

#[test]
fn a_chunk_that_has_passed_tells_what_each_node_took() {
    let (limits, fx) = (Limits::default(), &mut Effects::new(Time(0), Planted::default()));
    let (ids, n_active) = (&mut JobIds::default(), 1);
    let tools = &mut Tools { fx, ids, limits: &limits, n_active };
    let mut active = active(tools);
    let job = active.jobs().next().expect("the first chunk");
    let data = vec![0; 4 * 8 * 4];
    let rows = Activation { dtype: WireType::F32, rows: 4, cols: 8, data };
    let step = active.computed(tools, (job, 30), Ok(Computed::Activation(rows)), 1 << 20);
    assert_eq!(step, Step::Running);
    assert!(tools.fx.passed.is_empty(), "it is still on its way");
    let theirs = HopTime { node: OTHER, held_us: 80, compute_us: 70 };
    active.passed(tools, 4, vec![theirs]);
    let own = HopTime { node: ME, held_us: 0, compute_us: 30 };
    let passed = &tools.fx.passed[..];
    assert_eq!(passed.len(), 1);
    assert_eq!((passed[0].request, passed[0].positions.clone()), (RequestId(7), 0..4));
    assert_eq!(passed[0].hops, [own, theirs]);
    // Said again, of a part of a chunk, and of what was never sent: nothing.
    for to in [4, 6, 99] {
        active.passed(tools, to, vec![theirs]);
    }
    assert_eq!(tools.fx.passed.len(), 1, "{:?}", tools.fx.passed);
}
