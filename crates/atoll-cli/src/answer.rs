//! One answer: what is asked, what came, and how it is shown.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

use atoll_node::{
    ChatMessage, GenerateEvent, HopView, Prompt, RingView, Rounds, SamplerConfig, StageView,
};
use serde::Serialize;

use crate::args::GenerationArgs;
use crate::exit::Failure;
use crate::output;

/// Tokens generated when nothing else was said.
pub(crate) const TOKENS_DEFAULT: u32 = 512;
/// Prompt tokens computed at once when nothing else was said.
pub(crate) const CHUNK_DEFAULT: u32 = 64;
/// Longest sequence when nothing else was said and the model allows it.
pub(crate) const CONTEXT_DEFAULT: u32 = 8192;

/// What is asked of a model, with every default in place.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) prompt: Prompt,
    pub(crate) sampler: SamplerConfig,
    pub(crate) max_tokens: u32,
    pub(crate) stop: Vec<String>,
    pub(crate) context: Option<u32>,
    pub(crate) chunk: u32,
    pub(crate) logprobs: bool,
}

impl Ask {
    /// What `typed` means for `prompt`.
    pub(crate) fn new(prompt: String, typed: &GenerationArgs) -> Self {
        let prompt = if typed.raw {
            Prompt::Text(prompt)
        } else {
            let message = |role: &str, content| ChatMessage { role: role.to_owned(), content };
            let system = typed.system.clone().map(|text| message("system", text));
            Prompt::Chat(system.into_iter().chain([message("user", prompt)]).collect())
        };
        Self {
            prompt,
            sampler: sampler(typed),
            max_tokens: typed.max_tokens.unwrap_or(TOKENS_DEFAULT),
            stop: typed.stop.clone(),
            context: typed.ctx,
            chunk: typed.chunk.unwrap_or(CHUNK_DEFAULT),
            logprobs: typed.sampler.logprobs.is_some(),
        }
    }

    /// The longest sequence to make room for, of a model made for `context_max`.
    pub(crate) fn context(&self, context_max: usize) -> usize {
        let wanted = self.context.unwrap_or(CONTEXT_DEFAULT) as usize;
        wanted.min(context_max)
    }
}

/// Sampling as typed, on top of the defaults.
fn sampler(typed: &GenerationArgs) -> SamplerConfig {
    let typed = &typed.sampler;
    let default = SamplerConfig::default();
    SamplerConfig {
        temperature: typed.temperature.unwrap_or(default.temperature),
        top_k: typed.top_k.unwrap_or(default.top_k),
        top_p: typed.top_p.unwrap_or(default.top_p),
        min_p: typed.min_p.unwrap_or(default.min_p),
        repetition_penalty: typed.repetition_penalty.unwrap_or(default.repetition_penalty),
        presence_penalty: typed.presence_penalty.unwrap_or(default.presence_penalty),
        frequency_penalty: typed.frequency_penalty.unwrap_or(default.frequency_penalty),
        repeat_last_n: typed.repeat_last_n.unwrap_or(default.repeat_last_n),
        // Two answers without a seed should differ; the standard library's hasher is random.
        seed: typed.seed.unwrap_or_else(|| RandomState::new().hash_one(0_u8) >> 1),
        logprobs: typed.logprobs.unwrap_or(0),
    }
}

/// `atoll.run/1`
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Answer {
    pub(crate) schema: &'static str,
    pub(crate) model: String,
    pub(crate) prompt_tokens: Vec<u32>,
    pub(crate) tokens: Vec<u32>,
    pub(crate) text: String,
    pub(crate) finish_reason: &'static str,
    pub(crate) stages: Vec<StageView>,
    pub(crate) seed: u64,
    pub(crate) ttft_s: f64,
    pub(crate) decode_tokens_per_s: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) logprobs: Option<Vec<TokenLogprobs>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) hops: Vec<HopMean>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ring: Option<RingView>,
}

/// One position's log-probabilities.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TokenLogprobs {
    pub(crate) id: u32,
    pub(crate) logprob: f32,
    pub(crate) top: Vec<TopLogprob>,
}

/// One of the likeliest tokens.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct TopLogprob {
    pub(crate) id: u32,
    pub(crate) logprob: f32,
}

/// What one node took for a token, on average, by its own clock.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct HopMean {
    pub(crate) node: String,
    /// Computing.
    pub(crate) compute_s: f64,
    /// From the arrival of its input to the departure of its output.
    pub(crate) held_s: f64,
}

impl Answer {
    /// An answer of which nothing has come.
    pub(crate) fn empty(model: &str, ask: &Ask) -> Self {
        Self {
            schema: "atoll.run/1",
            model: model.to_owned(),
            prompt_tokens: Vec::new(),
            tokens: Vec::new(),
            text: String::new(),
            finish_reason: "",
            stages: Vec::new(),
            seed: ask.sampler.seed,
            ttft_s: 0.0,
            decode_tokens_per_s: 0.0,
            logprobs: ask.logprobs.then(Vec::new),
            hops: Vec::new(),
            ring: None,
        }
    }

    /// Shows what a person has not seen while it streamed, or all of it as JSON.
    pub(crate) fn show(&self, json: bool) -> Result<(), Failure> {
        if json {
            return output::json(self);
        }
        output::line_out("")?;
        output::note(&format!(
            "{} prompt tokens, {} generated; first after {:.2} s, then {:.1} tokens/s",
            self.prompt_tokens.len(),
            self.tokens.len(),
            self.ttft_s,
            self.decode_tokens_per_s
        ));
        if let Some(ring) = &self.ring {
            output::note(&ring_text(ring));
        }
        Ok(())
    }
}

/// What a hop took, for people.
pub(crate) fn ring_text(ring: &RingView) -> String {
    format!(
        "a hop adds {:.0} µs to the computing of a token (median of {}; {:.0} µs on the wire)",
        ring.hop_us_median, ring.rounds, ring.wire_us_median
    )
}

/// Builds an [`Answer`] from a node's events.
pub(crate) struct Listener<'a> {
    pub(crate) answer: Answer,
    /// Takes new text as it comes.
    pub(crate) show: &'a mut (dyn FnMut(&str) -> Result<(), Failure> + Send),
    hops: HopSums,
    rounds: Rounds,
}

impl<'a> Listener<'a> {
    pub(crate) fn new(
        answer: Answer,
        show: &'a mut (dyn FnMut(&str) -> Result<(), Failure> + Send),
    ) -> Self {
        Self { answer, show, hops: HopSums::default(), rounds: Rounds::default() }
    }

    /// Takes in one event; `true` when it was the last.
    pub(crate) fn hear(&mut self, event: GenerateEvent) -> Result<bool, Failure> {
        match event {
            GenerateEvent::Started { prompt_tokens, stages } => {
                self.answer.prompt_tokens = prompt_tokens;
                self.answer.stages = stages;
            }
            GenerateEvent::Prefilled { .. } => {}
            GenerateEvent::Token { id, text, logprob, top, hops, round, .. } => {
                self.answer.tokens.push(id);
                self.text(&text)?;
                // The first token's hops carried the whole prompt.
                if self.answer.tokens.len() > 1 {
                    self.hops.add(&hops);
                    self.rounds.push(round);
                }
                if let (Some(all), Some(logprob)) = (&mut self.answer.logprobs, logprob) {
                    let top = top.into_iter();
                    let top = top.map(|top| TopLogprob { id: top.id, logprob: top.logprob });
                    all.push(TokenLogprobs { id, logprob, top: top.collect() });
                }
            }
            GenerateEvent::Done { reason, text, ttft_s, decode_tokens_per_s, .. } => {
                self.text(&text)?;
                self.answer.finish_reason = match reason {
                    atoll_node::FinishReason::Stop => "stop",
                    atoll_node::FinishReason::Length => "length",
                };
                self.answer.ttft_s = ttft_s;
                self.answer.decode_tokens_per_s = decode_tokens_per_s;
                self.answer.hops = self.hops.means();
                self.answer.ring = self.rounds.view();
                return Ok(true);
            }
            GenerateEvent::Failed(error) => return Err(error.into()),
        }
        Ok(false)
    }

    fn text(&mut self, text: &str) -> Result<(), Failure> {
        self.answer.text.push_str(text);
        if text.is_empty() { Ok(()) } else { (self.show)(text) }
    }
}

/// Sums of hop times, in ring order.
#[derive(Clone, Debug, Default)]
struct HopSums {
    order: Vec<String>,
    /// Microseconds: computing, held.
    sums: BTreeMap<String, [u64; 2]>,
    tokens: u64,
}

impl HopSums {
    fn add(&mut self, hops: &[HopView]) {
        self.tokens += 1;
        for hop in hops {
            if !self.sums.contains_key(&hop.node) {
                self.order.push(hop.node.clone());
            }
            let sums = self.sums.entry(hop.node.clone()).or_default();
            let times = [hop.compute_us, hop.held_us];
            sums.iter_mut().zip(times).for_each(|(sum, us)| *sum += us);
        }
    }

    fn means(&self) -> Vec<HopMean> {
        #[expect(clippy::cast_precision_loss, reason = "microseconds of one answer")]
        let mean = |sum_us: u64| sum_us as f64 / 1e6 / self.tokens.max(1) as f64;
        let hop = |node: &String| {
            let [compute_s, held_s] = self.sums[node].map(mean);
            HopMean { node: node.clone(), compute_s, held_s }
        };
        self.order.iter().map(hop).collect()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn ask(line: &str) -> Ask {
        let Some(Command::Run(args)) = Cli::parse_from(line.split(' ')).command else {
            panic!("{line}");
        };
        Ask::new("p".to_owned(), &args.generation)
    }

    #[test]
    fn defaults_fill_what_was_not_typed() {
        let plain = ask("atoll run m p");
        assert!(matches!(&plain.prompt, Prompt::Chat(messages) if messages.len() == 1));
        assert_eq!((plain.max_tokens, plain.chunk), (TOKENS_DEFAULT, CHUNK_DEFAULT));
        assert_ne!(plain.sampler.seed, ask("atoll run m p").sampler.seed);
        let full = ask("atoll run m p --raw --temp 0 --seed 7 --ctx 100 --logprobs 3");
        assert!(matches!(&full.prompt, Prompt::Text(text) if text == "p"));
        assert_eq!((full.sampler.temperature, full.sampler.seed), (0.0, 7));
        assert_eq!((full.context(50), full.context(1000)), (50, 100));
        assert!(full.logprobs);
    }

    #[test]
    fn hops_are_averaged_in_ring_order() {
        let hop = |node: &str, compute_us| HopView {
            node: node.into(),
            compute_us,
            held_us: 2 * compute_us,
        };
        let mut sums = HopSums::default();
        sums.add(&[hop("b", 100), hop("a", 10)]);
        sums.add(&[hop("b", 300), hop("a", 30)]);
        let means = sums.means();
        let (compute_s, held_s) = (0.0002, 0.0004);
        assert_eq!(means[0], HopMean { node: "b".into(), compute_s, held_s });
        assert_eq!(means[1].node, "a");
    }

    #[test]
    fn the_json_has_the_promised_keys() {
        let answer = Answer::empty("m", &ask("atoll run m p"));
        let json = serde_json::to_value(answer).unwrap();
        for key in ["schema", "model", "prompt_tokens", "tokens", "text", "stages", "ttft_s"] {
            assert!(json.get(key).is_some(), "{key}");
        }
        assert!(json.get("decode_tokens_per_s").is_some() && json.get("logprobs").is_none());
    }
}
