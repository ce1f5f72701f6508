//! Jobs: embedding, layers, head and sampling, whichever they ask for.

use atoll_model::ndarray::{Array2, ArrayView2, Axis, s};
use atoll_model::{Sequence, StageInput, sample};
use atoll_proto::io::{Activation, Computed, Job, JobInput, SampleWork, WireType};

use super::Loaded;
use super::session::Session;
use crate::generate::TokenReport;

/// What a job's rows are made from.
enum Input<'a> {
    Tokens(&'a [u32]),
    Rows(Array2<f32>),
}

/// Runs `jobs` of the same part of a model in one pass, each with its session; the results in their
/// order, the same bits as if each ran alone. Errors are for the core, in words; on one for all,
/// every session is as it was.
pub(super) fn run(
    loaded: &Loaded,
    jobs: &[Job],
    sessions: &mut [Session],
) -> Result<Vec<Result<Computed, String>>, String> {
    let inputs = jobs.iter().map(Input::of).collect::<Result<Vec<_>, _>>()?;
    let part = jobs[0].part;
    let rows = match (part.embed || part.layers.is_some(), &inputs[..]) {
        (true, inputs) => body(loaded, sessions, jobs, inputs)?,
        (false, inputs) => stacked(inputs)?,
    };
    let mut end = 0;
    let mut ranges = Vec::with_capacity(jobs.len());
    for input in &inputs {
        ranges.push(end..end + input.view().len());
        end += input.view().len();
    }
    let mut samplings = Vec::new();
    let mut results: Vec<Result<Computed, String>> = Vec::with_capacity(jobs.len());
    for (index, (job, range)) in jobs.iter().zip(ranges).enumerate() {
        results.push(match (part.head, &job.sample) {
            _ if range.is_empty() => Err("no rows".to_owned()),
            (true, Some(work)) => {
                samplings.push((index, range.end - 1, work));
                Ok(Computed::Nothing)
            }
            (true, None) => Ok(Computed::Nothing),
            (false, _) => {
                let first = if job.last_row_only { range.end - 1 } else { range.start };
                Ok(Computed::Activation(encode(rows.slice(s![first..range.end, ..]))))
            }
        });
    }
    if !samplings.is_empty() {
        let last: Vec<usize> = samplings.iter().map(|&(_, row, _)| row).collect();
        let logits = loaded.stage.logits_of_rows(rows.select(Axis(0), &last).view());
        let mut logits = logits.map_err(|error| error.to_string())?;
        for ((index, _, work), row) in samplings.into_iter().zip(logits.rows_mut()) {
            let logits = row.into_slice().expect("rows are stored one behind another");
            results[index] = choose(&mut sessions[index], logits, work);
        }
    }
    Ok(results)
}

impl<'a> Input<'a> {
    fn of(job: &'a Job) -> Result<Self, String> {
        match &job.input {
            JobInput::Tokens(_) if !job.part.embed => {
                Err("tokens for a part without embedding".to_owned())
            }
            JobInput::Activation(_) if job.part.embed => {
                Err("activations for an embedding".to_owned())
            }
            JobInput::Tokens(tokens) => Ok(Self::Tokens(tokens)),
            JobInput::Activation(activation) => decode(activation).map(Self::Rows),
        }
    }

    fn view(&self) -> StageInput<'_> {
        match self {
            Self::Tokens(tokens) => StageInput::Tokens(tokens),
            Self::Rows(rows) => StageInput::Rows(rows.view()),
        }
    }
}

/// The rows of inputs that go straight to the head, `(n, dim)`.
fn stacked(inputs: &[Input<'_>]) -> Result<Array2<f32>, String> {
    let rows: Option<Vec<_>> = inputs
        .iter()
        .map(|input| match input {
            Input::Rows(rows) => Some(rows.view()),
            Input::Tokens(_) => None,
        })
        .collect();
    let rows = rows.ok_or("tokens for a head")?;
    atoll_model::ndarray::concatenate(Axis(0), &rows).map_err(|error| error.to_string())
}

/// Embedding and layers, `(n, dim)`.
fn body(
    loaded: &Loaded,
    sessions: &mut [Session],
    jobs: &[Job],
    inputs: &[Input<'_>],
) -> Result<Array2<f32>, String> {
    let part = jobs[0].part;
    if part.layers != loaded.part.layers {
        let name = |range: Option<_>| {
            range.map_or_else(
                || "no layers".to_owned(),
                |r: atoll_proto::plan::LayerRange| format!("layers {r}"),
            )
        };
        let (asked, here) = (name(part.layers), name(loaded.part.layers));
        return Err(format!("{asked} asked, {here} loaded"));
    }
    let mut sequences: Vec<_> = sessions
        .iter_mut()
        .zip(jobs.iter().zip(inputs))
        .map(|(session, (job, input))| Sequence {
            kv: &mut session.kv,
            input: input.view(),
            from_pos: job.from_pos as usize,
        })
        .collect();
    loaded.stage.forward_batch(&mut sequences).map_err(|error| error.to_string())
}

/// Chooses a token by `logits`, `(vocab_size)`.
fn choose(
    session: &mut Session,
    logits: &mut [f32],
    work: &SampleWork,
) -> Result<Computed, String> {
    let config = session.sampler(&work.sampling)?;
    let sampled = sample(config, logits, &work.recent, work.pos);
    let detail = if config.logprobs > 0 {
        let report = TokenReport { logprob: sampled.logprob, top: sampled.top };
        serde_json::to_vec(&report).map_err(|error| error.to_string())?
    } else {
        Vec::new()
    };
    Ok(Computed::Token { token: sampled.token, detail })
}

fn decode(activation: &Activation) -> Result<Array2<f32>, String> {
    if activation.dtype != WireType::F32 {
        return Err(format!("activations of type {:?}", activation.dtype));
    }
    let shape = (activation.rows as usize, activation.cols as usize);
    let values: Vec<f32> = activation
        .data
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("chunks of 4")))
        .collect();
    if !values.iter().all(|value| value.is_finite()) {
        return Err("activations hold NaN or infinity".to_owned());
    }
    let counts = format!("{} bytes for {shape:?}", activation.data.len());
    if !activation.data.len().is_multiple_of(4) {
        return Err(counts);
    }
    Array2::from_shape_vec(shape, values).map_err(|_| counts)
}

fn encode(rows: ArrayView2<'_, f32>) -> Activation {
    let limit = "a job's rows and columns fit u32";
    let mut data = Vec::with_capacity(rows.len() * 4);
    rows.iter().for_each(|value| data.extend_from_slice(&value.to_le_bytes()));
    Activation {
        dtype: WireType::F32,
        rows: u32::try_from(rows.nrows()).expect(limit),
        cols: u32::try_from(rows.ncols()).expect(limit),
        data,
    }
}
