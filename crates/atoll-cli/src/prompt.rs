//! Where the prompt and other text comes from.

use std::fs;
use std::io::{self, IsTerminal, Read};
use std::path::Path;

use crate::exit::{Exit, Failure};
use crate::output;

/// Longest prompt on stdin; the context of any model is far shorter.
const PROMPT_BYTES_MAX: u64 = 16 << 20;

/// The prompt that was typed, or stdin's text when none was, or when it is `-`.
///
/// # Errors
/// [`Exit::Usage`] for text that is empty, too long, or not UTF-8.
pub(crate) fn read(typed: Option<&str>) -> Result<String, Failure> {
    match typed {
        Some(text) if text != "-" => check(text.to_owned()),
        _ => {
            if io::stdin().is_terminal() {
                output::note("reading the prompt from stdin; Ctrl-D ends it");
            }
            from(&mut io::stdin().lock())
        }
    }
}

fn from(reader: &mut dyn Read) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    reader.take(PROMPT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| {
        Failure::new(Exit::Failure, "cannot read the prompt from stdin").because(error)
    })?;
    if bytes.len() as u64 > PROMPT_BYTES_MAX {
        return Err(Failure::usage("the prompt on stdin is too long")
            .because(format!("more than {} came", output::bytes_text(PROMPT_BYTES_MAX))));
    }
    let text = utf8("the prompt on stdin", bytes)?;
    // The line end of `echo` and of editors belongs to the shell, not to the prompt.
    let text = text.strip_suffix('\n').map_or(text.as_str(), |text| text);
    check(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

/// The text of a file.
///
/// # Errors
/// The disk's, and [`Exit::Usage`] for bytes that are not UTF-8.
pub(crate) fn text_file(path: &Path) -> Result<String, Failure> {
    let bytes = fs::read(path).map_err(|error| Failure::io("read", path, &error))?;
    utf8(&path.display().to_string(), bytes)
}

fn utf8(what: &str, bytes: Vec<u8>) -> Result<String, Failure> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::usage(format!("{what} is not text"))
            .because(format!("byte {at} is not valid UTF-8"))
            .hint("iconv -t UTF-8 converts other encodings")
    })
}

fn check(text: String) -> Result<String, Failure> {
    if text.is_empty() {
        return Err(Failure::usage("the prompt is empty")
            .hint("atoll run MODEL \"some words\", or words on stdin"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stdin_is_read_whole_and_checked() {
        let check =
            |bytes: &[u8], expected: Result<&str, &str>| match (from(&mut &bytes[..]), expected) {
                (Ok(text), Ok(wanted)) => assert_eq!(text, wanted),
                (Err(failure), Err(part)) => {
                    assert_eq!(failure.exit, Exit::Usage);
                    assert!(failure.to_string().contains(part), "{failure}");
                }
                (found, _) => panic!("{bytes:?}: {found:?}"),
            };
        check(b"hi\n", Ok("hi"));
        check(b"a\r\nb\r\n", Ok("a\r\nb"));
        check(b"hi\n\n", Ok("hi\n"));
        check(b"", Err("empty"));
        check(b"\n", Err("empty"));
        check(b"ab\xff", Err("byte 2"));
        check(&vec![b'a'; 16 * 1024 * 1024 + 1], Err("too long"));
    }
}
