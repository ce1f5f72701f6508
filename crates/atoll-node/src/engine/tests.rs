use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use atoll_model::{Architecture, BlockType, Compute, GgufFile, Isa, TensorSource, tiny};
use atoll_proto::Epoch;
use atoll_proto::io::JobInput;

use super::*;

const MODEL: ModelId = ModelId([1; 32]);

const fn range(start: u16, end: u16) -> LayerRange {
    LayerRange { start, end }
}

/// A tiny model's part: the embedding and these layers.
fn loaded(layers: LayerRange) -> Loaded {
    let compute = Arc::new(Compute::new(Isa::detect(), 1).expect("one thread"));
    let file = tiny::random_model(&tiny::config(Architecture::Llama), BlockType::Q8_0, 1);
    let source = TensorSource::Gguf(GgufFile::parse(file).expect("it was just made"));
    let of = usize::from(layers.start)..usize::from(layers.end);
    let part = atoll_model::Part { embed: true, layers: of, head: false };
    let stage = Stage::load(&source, &part, &compute, &mut |_| {}).expect("it is whole");
    Loaded { part: Part { layers: Some(layers), embed: true, head: false }, stage }
}

struct Bench {
    engine: Engine,
    said: Receiver<Input>,
    jobs: u64,
}

impl Bench {
    fn new() -> Self {
        let (tell, said) = channel();
        let report = move |input| _ = tell.send(input);
        let engine = Engine::start(HeldBoard::default(), report).expect("a thread");
        Self { engine, said, jobs: 0 }
    }

    fn heard(&self) -> Result<Input, RecvTimeoutError> {
        self.said.recv_timeout(Duration::from_secs(20))
    }

    fn install(&self, layers: LayerRange, is_beside: bool) {
        self.engine.install(MODEL, loaded(layers), is_beside, Input::Tick);
        assert_eq!(self.heard(), Ok(Input::Tick));
    }

    /// One token of a session through these layers: the row that comes of it.
    fn step(
        &mut self,
        session: u128,
        from_pos: u32,
        layers: LayerRange,
    ) -> Result<Vec<u8>, String> {
        self.jobs += 1;
        self.engine.compute(Job {
            id: JobId(self.jobs),
            session: SessionId(session),
            epoch: Epoch(1),
            model: MODEL,
            from_pos,
            positions_max: 8,
            input: JobInput::Tokens(vec![7 + from_pos]),
            part: Part { layers: Some(layers), embed: true, head: false },
            sample: None,
            last_row_only: false,
        });
        let Ok(Input::Computed { job, result, .. }) = self.heard() else { panic!("no result") };
        assert_eq!(job, JobId(self.jobs));
        result.map(|computed| match computed {
            Computed::Activation(rows) => rows.data,
            Computed::Nothing | Computed::Token { .. } => panic!("a row was wanted"),
        })
    }
}

#[test]
fn two_parts_compute_beside_each_other_until_one_is_kept() {
    let (old, new) = (range(0, 1), range(0, 2));
    let rows = |layers: LayerRange| {
        let mut alone = Bench::new();
        alone.install(layers, false);
        [0, 1].map(|pos| alone.step(1, pos, layers).expect("it is loaded"))
    };
    let (of_old, of_new) = (rows(old), rows(new));
    let mut bench = Bench::new();
    bench.install(old, false);
    assert_eq!(bench.step(1, 0, old), Ok(of_old[0].clone()));
    assert!(bench.step(3, 0, new).is_err_and(|why| why.contains("0..2 asked, layers 0..1 loaded")));
    bench.install(new, true);
    assert_eq!(bench.step(1, 1, old), Ok(of_old[1].clone()), "its cache is still there");
    assert_eq!(bench.step(2, 0, new), Ok(of_new[0].clone()));
    bench.engine.keep(MODEL, Some(new));
    assert_eq!(bench.step(2, 1, new), Ok(of_new[1].clone()), "and so is this one's");
    assert!(bench.step(1, 2, old).is_err_and(|why| why.contains("0..1 asked, layers 0..2 loaded")));
}

#[test]
fn a_part_that_is_not_beside_another_takes_its_place() {
    let mut bench = Bench::new();
    bench.install(range(0, 1), false);
    bench.install(range(0, 2), false);
    assert!(bench.step(1, 0, range(0, 1)).is_err());
    assert!(bench.step(2, 0, range(0, 2)).is_ok());
    bench.engine.unload(MODEL);
    assert!(bench.step(2, 1, range(0, 2)).is_err_and(|why| why.contains("not loaded here")));
}
