//! Models in this process: opened, loaded, asked.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use atoll_model::{
    ChatTemplate, Compute, FinishReason, GenerateOptions, Generator, LoadProgress, ModelError,
    ModelFiles, Part, Sampled, Stage, StopMatcher, TensorSource, TokenStream, Tokenizer,
};
use atoll_node::{ChatMessage, Prompt, StageView};

use crate::answer::{Answer, Ask, TokenLogprobs, TopLogprob};
use crate::exit::{Exit, Failure};
use crate::progress::{Task, Unit};
use crate::source::LocalModel;

/// A whole model in memory.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) name: String,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) template: Option<ChatTemplate>,
    pub(crate) stage: Arc<Stage>,
    /// Bytes of the tensors as they are stored.
    pub(crate) stored_bytes: u64,
}

/// Opens the model at `path`.
///
/// # Errors
/// Damage or something unsupported, naming the file.
pub(crate) fn open(path: &Path) -> Result<ModelFiles, Failure> {
    ModelFiles::open(path).map_err(|error| Failure::from(error).in_file(path))
}

/// Opens the model at `path`, which may be an encoder.
///
/// # Errors
/// As [`open`].
pub(crate) fn open_any(path: &Path) -> Result<ModelFiles, Failure> {
    ModelFiles::open_any(path).map_err(|error| Failure::from(error).in_file(path))
}

/// Shows how far `load`, of the model `name`, is.
pub(crate) fn loading<T>(
    name: &str,
    load: impl FnOnce(&mut (dyn FnMut(LoadProgress) + Send)) -> Result<T, ModelError>,
) -> Result<T, ModelError> {
    let mut task = Task::new(format!("loading {name}"), Unit::Bytes, None);
    let loaded = load(&mut |at| {
        task.set_total(Some(at.bytes_total));
        task.at(at.bytes_done);
    })?;
    task.finish();
    Ok(loaded)
}

/// Loads all of `model`, or the first neurons of its feed-forward blocks: such a share of them all
/// or, of many, of each layer's.
pub(crate) fn load(
    model: &LocalModel,
    width: &[f32],
    compute: Arc<Compute>,
) -> Result<Loaded, Failure> {
    let ModelFiles { source, tokenizer, template } = open(&model.path)?;
    let in_file = |error| Failure::from(error).in_file(&model.path);
    let source = match width {
        [] => source,
        shares => narrowed(&source, shares).map_err(|failure| failure.in_file(&model.path))?,
    };
    let part = Part::whole(source.config());
    let stage = loading(&model.name, |progress| Stage::load(&source, &part, &compute, progress));
    let stage = stage.map_err(in_file)?;
    let stored_bytes = source.stored_bytes()?;
    let name = model.name.clone();
    Ok(Loaded { name, tokenizer, template, stage: Arc::new(stage), stored_bytes })
}

/// What `--width` names of the widths that the file was made for: one for all layers, or one for
/// each.
fn narrowed(source: &TensorSource, shares: &[f32]) -> Result<TensorSource, Failure> {
    let TensorSource::Gguf(file) = source else {
        return Err(Failure::usage("only GGUF files have widths"));
    };
    let widths: Vec<usize> = file.widths().iter().map(|width| width.neurons).collect();
    let (whole, n_layers) = (file.config().ffn_dim, file.config().n_layers);
    if widths.is_empty() {
        return Err(Failure::usage("the model has one width only")
            .hint("`atoll compress … --widths 0.75,0.5` makes one that has several"));
    }
    if shares.len() != 1 && shares.len() != n_layers {
        return Err(Failure::usage(format!("{} widths for {n_layers} layers", shares.len()))
            .hint("one width for all, or one for each layer"));
    }
    let neurons = shares.iter().map(|share| nearest(&widths, whole, *share));
    let mut neurons = neurons.collect::<Result<Vec<_>, _>>()?;
    if let [alike] = neurons[..] {
        neurons = vec![alike; n_layers];
    }
    Ok(TensorSource::Gguf(file.narrowed(&neurons)?))
}

/// The width that is `share` of the `whole`.
fn nearest(widths: &[usize], whole: usize, share: f32) -> Result<usize, Failure> {
    /// How far from a width's share a figure may be that means it: widths are whole blocks.
    const NEAR: f32 = 0.03;
    let off = |width: usize| (width as f32 / whole as f32 - share).abs();
    let nearest = widths.iter().copied().min_by(|a, b| off(*a).total_cmp(&off(*b)));
    nearest.filter(|width| off(*width) <= NEAR).ok_or_else(|| {
        let shares = widths.iter().map(|w| format!("{:.3}", *w as f32 / whole as f32));
        let shares = shares.collect::<Vec<_>>().join(", ");
        Failure::usage(format!("the model has no width {share}"))
            .because(format!("its widths are {shares}"))
    })
}

impl Loaded {
    /// Ids of `prompt`, through the model's template if it is a conversation.
    pub(crate) fn tokens_of(&self, prompt: &Prompt) -> Result<Vec<u32>, Failure> {
        match prompt {
            Prompt::Tokens(tokens) => Ok(tokens.clone()),
            Prompt::Text(text) => Ok(self.tokenizer.encode(text, true)?),
            Prompt::Chat(messages) => {
                let text = self.render(messages)?;
                // A template that writes the first token itself must not get it twice.
                let bos = self.tokenizer.bos().and_then(|id| self.tokenizer.token(id));
                let written = bos.is_some_and(|bos| text.starts_with(bos));
                Ok(self.tokenizer.encode(&text, !written)?)
            }
        }
    }

    fn render(&self, messages: &[ChatMessage]) -> Result<String, Failure> {
        let template = self.template.as_ref().ok_or_else(|| {
            Failure::new(Exit::Failure, format!("{} has no chat template", self.name))
                .hint("--raw gives it the prompt as it is")
        })?;
        Ok(template.render(messages, true)?)
    }
}

/// Takes new text as it comes.
pub(crate) type Show<'a> = dyn FnMut(&str) -> Result<(), Failure> + 'a;

/// Answers one prompt.
pub(crate) fn answer(
    loaded: &Loaded,
    ask: &Ask,
    cancel: &AtomicBool,
    show: &mut Show<'_>,
) -> Result<Answer, Failure> {
    let context = ask.context(loaded.stage.config().context_max);
    let mut generator = Generator::new(Arc::clone(&loaded.stage), context)?;
    answer_with(&mut generator, loaded, ask, cancel, show)
}

/// Answers one prompt with a generator that may remember the beginning of it.
pub(crate) fn answer_with(
    generator: &mut Generator,
    loaded: &Loaded,
    ask: &Ask,
    cancel: &AtomicBool,
    show: &mut Show<'_>,
) -> Result<Answer, Failure> {
    let prompt = loaded.tokens_of(&ask.prompt)?;
    let options = GenerateOptions {
        sampler: ask.sampler.clone(),
        tokens_max: ask.max_tokens as usize,
        prefill_chunk: ask.chunk as usize,
    };
    let mut answer = Answer::empty(&loaded.name, ask);
    let mut text = TextOut::new(loaded.tokenizer.stream(), &ask.stop, show);
    let is_end = |token| loaded.tokenizer.is_end(token);
    let logprobs = &mut answer.logprobs;
    let generated =
        generator.generate(&prompt, &options, &is_end, cancel, &mut |sampled: &Sampled| {
            if let Some(all) = logprobs {
                all.push(TokenLogprobs::of(sampled));
            }
            text.token(sampled.token)
        })?;
    (answer.text, answer.finish_reason) = text.finish(generated.reason)?;
    answer.prompt_tokens = prompt;
    answer.tokens = generated.tokens;
    let n_layers = u16::try_from(loaded.stage.config().n_layers).unwrap_or(u16::MAX);
    answer.stages = vec![StageView { node: "local".to_owned(), layers: [0, n_layers] }];
    answer.ttft_s = generated.timings.ttft_s;
    answer.decode_tokens_per_s = generated.timings.decode_tokens_per_s();
    Ok(answer)
}

impl TokenLogprobs {
    fn of(sampled: &Sampled) -> Self {
        let top = sampled.top.iter().map(|&(id, logprob)| TopLogprob { id, logprob }).collect();
        Self { id: sampled.token, logprob: sampled.logprob.unwrap_or(0.0), top }
    }
}

/// Turns tokens into text on its way out.
struct TextOut<'a, 'b> {
    stream: TokenStream,
    stops: StopMatcher,
    text: String,
    stopped: bool,
    failed: Option<Failure>,
    show: &'a mut Show<'b>,
}

impl<'a, 'b> TextOut<'a, 'b> {
    fn new(stream: TokenStream, stops: &[String], show: &'a mut Show<'b>) -> Self {
        let (stops, text) = (StopMatcher::new(stops), String::new());
        Self { stream, stops, text, stopped: false, failed: None, show }
    }

    fn token(&mut self, token: u32) -> ControlFlow<()> {
        let passed = self.stops.push(&self.stream.push(token));
        self.stopped = passed.stopped_by.is_some();
        if let Err(failure) = self.out(&passed.text) {
            self.failed = Some(failure);
            return ControlFlow::Break(());
        }
        if self.stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn out(&mut self, text: &str) -> Result<(), Failure> {
        self.text.push_str(text);
        if text.is_empty() { Ok(()) } else { (self.show)(text) }
    }

    /// The whole text, and why it ended.
    fn finish(mut self, reason: FinishReason) -> Result<(String, &'static str), Failure> {
        if let Some(failure) = self.failed {
            return Err(failure);
        }
        if !self.stopped {
            let rest = self.stops.push(&self.stream.clone().finish());
            self.out(&rest.text)?;
            if rest.stopped_by.is_none() {
                let held = self.stops.clone().finish();
                self.out(&held)?;
            }
        }
        let reason = match reason {
            FinishReason::End | FinishReason::Stopped => "stop",
            FinishReason::Length => "length",
            FinishReason::Cancelled => "cancelled",
        };
        Ok((self.text, reason))
    }
}
