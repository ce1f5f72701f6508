//! `atoll chat`: a conversation.

use std::io::{self, BufRead, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use atoll_model::Generator;
use atoll_node::{ChatMessage, Prompt};

use crate::answer::Ask;
use crate::args::ChatArgs;
use crate::exit::{Exit, Failure};
use crate::interrupt::Stop;
use crate::local::{self, Loaded};
use crate::output;
use crate::settings::Settings;
use crate::source;

const HELP: &str = "/clear begins anew, /system TEXT sets a system message, /bye or Ctrl-D leaves; \
                    Ctrl-C stops an answer";

pub(crate) async fn run(settings: &Settings, args: ChatArgs, stop: &Stop) -> Result<(), Failure> {
    let (library, name) = (settings.library().cancelled_by(stop.flag()), args.model.clone());
    let compute = settings.compute(&args.compute)?;
    let opening = super::blocking(move || {
        let model = source::obtain(&library, &name)?;
        local::load(&model, &[], compute)
    });
    let loaded = stop.race(opening).await?;
    let (json, ask) = (settings.json, Ask::new(String::new(), &args.generation));
    let (cancel, answering) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (flag, busy) = (Arc::clone(&cancel), Arc::clone(&answering));
    let talk = super::blocking(move || converse(json, &loaded, ask, &flag, &busy));
    tokio::pin!(talk);
    loop {
        tokio::select! {
            done = &mut talk => return done,
            failure = stop.asked() => {
                // Ctrl-C stops an answer; between answers it leaves.
                if failure.exit != Exit::Interrupted || !answering.load(Ordering::Relaxed) {
                    return Err(failure);
                }
                cancel.store(true, Ordering::Relaxed);
                stop.forgive();
            }
        }
    }
}

/// One line after the other, until `/bye` or the end of stdin.
fn converse(
    json: bool,
    loaded: &Loaded,
    mut ask: Ask,
    cancel: &AtomicBool,
    answering: &AtomicBool,
) -> Result<(), Failure> {
    let context = ask.context(loaded.stage.config().context_max);
    let mut generator = Generator::new(Arc::clone(&loaded.stage), context)?;
    let mut system = match ask.prompt {
        Prompt::Chat(messages) => messages.into_iter().filter(|one| one.role == "system").collect(),
        Prompt::Text(_) | Prompt::Tokens(_) => Vec::new(),
    };
    let mut talk: Vec<ChatMessage> = Vec::new();
    if io::stdin().is_terminal() {
        output::note(HELP);
    }
    loop {
        let Some(line) = next_line()? else { return Ok(()) };
        match line.split_once(' ').map_or((line.as_str(), ""), |(word, rest)| (word, rest.trim())) {
            ("", _) => continue,
            ("/bye" | "/exit" | "/quit", _) => return Ok(()),
            ("/help" | "/?", _) => output::note(HELP),
            ("/clear", _) => talk.clear(),
            ("/system", text) => system = vec![message("system", text.to_owned())],
            (word, _) if word.starts_with('/') => output::note(&format!("no {word}; {HELP}")),
            _ => {
                talk.push(message("user", line));
                ask.prompt = Prompt::Chat(system.iter().chain(&talk).cloned().collect());
                cancel.store(false, Ordering::Relaxed);
                answering.store(true, Ordering::Relaxed);
                let mut show = |text: &str| if json { Ok(()) } else { output::write_out(text) };
                let answered = local::answer_with(&mut generator, loaded, &ask, cancel, &mut show);
                answering.store(false, Ordering::Relaxed);
                let answer = match answered {
                    Ok(answer) => answer,
                    // A question that does not fit is taken back; the conversation goes on.
                    Err(failure) if failure.exit == Exit::Usage => {
                        talk.pop();
                        output::note(&failure.to_string());
                        continue;
                    }
                    Err(failure) => return Err(failure),
                };
                answer.show(json)?;
                talk.push(message("assistant", answer.text));
            }
        }
    }
}

fn message(role: &str, content: String) -> ChatMessage {
    ChatMessage { role: role.to_owned(), content }
}

/// The next line, without its end.
fn next_line() -> Result<Option<String>, Failure> {
    if io::stdin().is_terminal() {
        output::prompt("> ");
    }
    let mut line = String::new();
    match io::stdin().lock().read_line(&mut line) {
        Ok(0) => Ok(None),
        Ok(_) => Ok(Some(line.trim_end_matches(['\n', '\r']).to_owned())),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(Failure::usage("stdin is not text").because(error))
        }
        Err(error) => Err(Failure::new(Exit::Failure, "cannot read stdin").because(error)),
    }
}
