//! HTTP in, node commands out: the OpenAI interface of an Atoll node.

mod error;
mod guard;
mod openai;
