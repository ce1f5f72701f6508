//! One job: embedding, layers, head and sampling, whichever it asks for.

use atoll_model::ndarray::{Array2, ArrayView1, s};
use atoll_model::{StageInput, sample};
use atoll_proto::io::{Activation, Computed, Job, JobInput, SampleWork, WireType};

use super::Loaded;
use super::session::Session;
use crate::generate::TokenReport;

/// Runs a job. Errors are for the core, in words.
pub(super) fn run(loaded: &Loaded, session: &mut Session, job: Job) -> Result<Computed, String> {
    let has_body = job.part.embed || job.part.layers.is_some();
    let rows = match job.input {
        JobInput::Tokens(_) if !job.part.embed => {
            return Err("tokens for a part without embedding".to_owned());
        }
        JobInput::Activation(_) if job.part.embed => {
            return Err("activations for an embedding".to_owned());
        }
        JobInput::Tokens(tokens) => {
            body(loaded, session, &job.part, StageInput::Tokens(&tokens), job.from_pos)?
        }
        JobInput::Activation(activation) => {
            let rows = decode(&activation)?;
            if has_body {
                body(loaded, session, &job.part, StageInput::Rows(rows.view()), job.from_pos)?
            } else {
                rows
            }
        }
    };
    if rows.nrows() == 0 {
        return Err("no rows".to_owned());
    }
    let last = rows.row(rows.nrows() - 1);
    match (job.part.head, job.sample) {
        (true, Some(work)) => head(loaded, session, last, &work),
        (true, None) => Ok(Computed::Nothing),
        (false, _) if job.last_row_only => {
            let last = rows.slice(s![rows.nrows() - 1.., ..]);
            Ok(Computed::Activation(encode(&last.to_owned())))
        }
        (false, _) => Ok(Computed::Activation(encode(&rows))),
    }
}

/// Embedding and layers.
fn body(
    loaded: &Loaded,
    session: &mut Session,
    part: &atoll_proto::io::Part,
    input: StageInput<'_>,
    from_pos: u32,
) -> Result<Array2<f32>, String> {
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
    loaded
        .stage
        .forward(&mut session.kv, input, from_pos as usize)
        .map_err(|error| error.to_string())
}

/// Final norm, vocabulary product and sampling for one row, `(dim)`.
fn head(
    loaded: &Loaded,
    session: &mut Session,
    row: ArrayView1<'_, f32>,
    work: &SampleWork,
) -> Result<Computed, String> {
    let mut logits = loaded.stage.logits(row).map_err(|error| error.to_string())?;
    let config = session.sampler(&work.sampling)?;
    let sampled = sample(config, &mut logits, &work.recent, work.pos);
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

fn encode(rows: &Array2<f32>) -> Activation {
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
