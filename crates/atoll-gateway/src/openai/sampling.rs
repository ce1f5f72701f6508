//! What chat and plain completions share: sampling options, stop texts, usage.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

use crate::error::ApiError;

/// Most stop texts, and most bytes in each: every token is compared with them.
const STOP_MAX: usize = 16;
const STOP_BYTES_MAX: usize = 256;
/// Most alternatives per position.
pub(crate) const TOP_LOGPROBS_MAX: u8 = 20;

/// Sampling options as they come; unknown fields are ignored.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SamplingFields {
    pub(crate) temperature: Option<f32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) top_k: Option<u32>,
    pub(crate) min_p: Option<f32>,
    pub(crate) presence_penalty: Option<f32>,
    pub(crate) frequency_penalty: Option<f32>,
    pub(crate) repetition_penalty: Option<f32>,
    pub(crate) seed: Option<Number>,
    pub(crate) stop: Option<Stop>,
    pub(crate) n: Option<u32>,
    pub(crate) logit_bias: Option<Map<String, Value>>,
    pub(crate) max_tokens: Option<u32>,
    pub(crate) max_completion_tokens: Option<u32>,
    pub(crate) stream: Option<bool>,
    pub(crate) stream_options: Option<StreamOptions>,
}

/// One stop text or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Stop {
    One(String),
    Many(Vec<String>),
}

/// What else a stream carries.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct StreamOptions {
    pub(crate) include_usage: bool,
}

impl SamplingFields {
    /// Refuses what is out of range or not supported.
    pub(crate) fn check(&self) -> Result<(), ApiError> {
        within("temperature", self.temperature, 0.0, 2.0)?;
        within("top_p", self.top_p, 0.0, 1.0)?;
        within("min_p", self.min_p, 0.0, 1.0)?;
        within("presence_penalty", self.presence_penalty, -2.0, 2.0)?;
        within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?;
        within("repetition_penalty", self.repetition_penalty, 0.01, 10.0)?;
        if self.n.is_some_and(|n| n != 1) {
            return Err(ApiError::invalid(Some("n"), "n must be 1: one answer per request"));
        }
        if self.logit_bias.as_ref().is_some_and(|bias| !bias.is_empty()) {
            return Err(ApiError::invalid(Some("logit_bias"), "logit_bias is not supported"));
        }
        let stops = self.stops();
        let fits = |stop: &String| !stop.is_empty() && stop.len() <= STOP_BYTES_MAX;
        if stops.len() > STOP_MAX || !stops.iter().all(fits) {
            let limits = format!("at most {STOP_MAX} stop texts of 1 to {STOP_BYTES_MAX} bytes");
            return Err(ApiError::invalid(Some("stop"), limits));
        }
        Ok(())
    }

    /// The stop texts.
    pub(crate) fn stops(&self) -> Vec<String> {
        match &self.stop {
            None => Vec::new(),
            Some(Stop::One(stop)) => vec![stop.clone()],
            Some(Stop::Many(stops)) => stops.clone(),
        }
    }

    /// The longest answer asked for.
    pub(crate) fn tokens_max(&self) -> Option<u32> {
        self.max_completion_tokens.or(self.max_tokens)
    }

    /// Any JSON number as a seed: negative and large ones too.
    pub(crate) fn seed(&self) -> Option<u64> {
        let number = self.seed.as_ref()?;
        let whole = number.as_u64().or_else(|| number.as_i64().map(i64::cast_unsigned));
        whole.or_else(|| number.as_f64().map(f64::to_bits))
    }

    /// Whether the answer is streamed.
    pub(crate) fn streams(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    /// Whether the stream ends with a usage chunk.
    pub(crate) fn usage_wanted(&self) -> bool {
        self.stream_options.unwrap_or_default().include_usage
    }
}

fn within(param: &'static str, value: Option<f32>, low: f32, high: f32) -> Result<(), ApiError> {
    match value {
        Some(value) if !(low..=high).contains(&value) => Err(ApiError::invalid(
            Some(param),
            format!("{param} is {value}; it must be from {low} to {high}"),
        )),
        _ => Ok(()),
    }
}

/// Tokens counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: u32,
    pub(crate) completion_tokens: u32,
    pub(crate) total_tokens: u32,
}

impl Usage {
    pub(crate) const fn new(prompt_tokens: u32, completion_tokens: u32) -> Self {
        let total_tokens = prompt_tokens.saturating_add(completion_tokens);
        Self { prompt_tokens, completion_tokens, total_tokens }
    }
}

/// Reads a request body; what serde finds wrong becomes a 400.
pub(crate) fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body)
        .map_err(|error| ApiError::invalid(None, format!("cannot read the request: {error}")))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn check(json: &str, param: Option<&str>) {
        let found = read::<SamplingFields>(json.as_bytes()).and_then(|fields| fields.check());
        let found = found.err().map(|error| error.body.param);
        assert_eq!(found, param.map(Some), "{json}");
    }

    #[test]
    fn ranges_are_kept() {
        check("{}", None);
        check(r#"{"temperature":0,"top_p":1,"n":1,"stop":null,"logit_bias":{}}"#, None);
        check(r#"{"audio":{},"store":true,"service_tier":"x","verbosity":1}"#, None);
        check(r#"{"temperature":3}"#, Some("temperature"));
        check(r#"{"top_p":-0.1}"#, Some("top_p"));
        check(r#"{"n":2}"#, Some("n"));
        check(r#"{"logit_bias":{"5":1}}"#, Some("logit_bias"));
        check(r#"{"stop":""}"#, Some("stop"));
        check(r#"{"stop":["a","b"]}"#, None);
    }

    #[test]
    fn every_number_is_a_seed() {
        let seed = |json: &str| {
            read::<SamplingFields>(format!(r#"{{"seed":{json}}}"#).as_bytes()).unwrap().seed()
        };
        assert_eq!(seed("7"), Some(7));
        assert_eq!(seed("-1"), Some(u64::MAX));
        assert_eq!(seed("18446744073709551615"), Some(u64::MAX));
        assert_eq!(seed("1e30"), Some(1e30f64.to_bits()));
        assert_eq!(seed("null"), None);
    }
}
