#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::config::Architecture;
use crate::gguf::GgufFile;
use crate::{BlockType, tiny};

fn file() -> GgufFile {
    let config = tiny::config(Architecture::Llama);
    GgufFile::parse(tiny::random_model(&config, BlockType::Q8_0, 1)).unwrap()
}

fn template(source: &str) -> Result<ChatTemplate, ModelError> {
    ChatTemplate::new(source, &Tokenizer::from_gguf(file().metadata()).unwrap())
}

fn message(role: &str, content: &str) -> ChatMessage {
    ChatMessage { role: role.to_owned(), content: content.to_owned() }
}

fn check(source: &str, expected: &str) {
    let chat = [message("user", " Hi \"you\" "), message("assistant", "é")];
    assert_eq!(template(source).unwrap().render(&chat, true).unwrap(), expected, "{source}");
}

fn check_fails(source: &str, expected: &str) {
    let result = template(source).and_then(|template| template.render(&[], true));
    let error = result.unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn template_of_the_file_renders() {
    let file = file();
    let tokenizer = Tokenizer::from_gguf(file.metadata()).unwrap();
    let template = ChatTemplate::from_gguf(file.metadata(), &tokenizer).unwrap().unwrap();
    let prompt = template.render(&[message("user", "Hi")], true).unwrap();
    assert_eq!(prompt, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    let prompt = template.render(&[message("user", "Hi")], false).unwrap();
    assert_eq!(prompt, "<|im_start|>user\nHi<|im_end|>\n");
}

#[test]
fn python_is_understood() {
    check("{{ messages[0].content.strip() }}", "Hi \"you\"");
    check("{{ messages[0]['content'] | trim | tojson }}", r#""Hi \"you\"""#);
    check("{{ messages[1] | tojson }}", r#"{"role": "assistant", "content": "é"}"#);
    check("{{ {'a': [1, 2]} | tojson(indent=2) }}", "{\n  \"a\": [\n    1,\n    2\n  ]\n}");
    check("{{ messages[1:] | length }}{{ messages[-1].role.startswith('assist') }}", "1True");
    check(
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = 1 %}{% endfor %}{{ ns.n }}",
        "1",
    );
    check("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}x{% endfor %}", "x");
    check("{{ bos_token }}|{{ eos_token }}", "<|endoftext|>|<|im_end|>");
    check("{% if tools %}no{% endif %}{{ add_generation_prompt }}", "True");
    check("  {% if true %}\nx\n  {% endif %}\ny", "x\ny");
    check("{% generation %}a{%- endgeneration -%} b", "ab");
}

#[test]
fn faults_are_errors_with_their_cause() {
    check_fails("{{ raise_exception('roles must alternate') }}", "roles must alternate");
    check_fails("{% if %}", "chat template: syntax error");
    check_fails(
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "steps",
    );
    check_fails("{% include '/etc/passwd' %}", "/etc/passwd");
    check_fails("{{ strftime_now('%Q') }}", "does not know %Q");
    check_fails(&"x".repeat(2 << 20), "bytes of the chat template is 2097152");
}

#[test]
fn dates_are_those_of_the_calendar() {
    let check = |seconds, expected: &str| {
        let text = python::strftime("%a %d %b %Y, %B %y %H:%M:%S %I%p %m %A %%", seconds).unwrap();
        assert_eq!(text, expected);
    };
    check(0, "Thu 01 Jan 1970, January 70 00:00:00 12AM 01 Thursday %");
    check(1_709_211_599, "Thu 29 Feb 2024, February 24 12:59:59 12PM 02 Thursday %");
    check(4_102_444_799, "Thu 31 Dec 2099, December 99 23:59:59 11PM 12 Thursday %");
}
