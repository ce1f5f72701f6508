"""Writes GGUF files that hold only a vocabulary, for `tokenizer.py`.

    python vocabularies.py MODEL.gguf FOLDER

MODEL has a byte-level tokenizer. FOLDER gets its vocabulary once under each pre-tokenizer, and a
SentencePiece vocabulary of the same texts with random scores, many of them equal.
"""
import pathlib
import random
import sys

from gguf import GGUFReader, GGUFWriter

PRE_TOKENIZERS = ["gpt-2", "smollm", "qwen2", "llama-bpe"]


def byte_alphabet() -> dict[str, int]:
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(rest)}


def begin(path: pathlib.Path, model: str) -> GGUFWriter:
    writer = GGUFWriter(path, "llama")
    writer.add_tokenizer_model(model)
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    return writer


def finish(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    source, folder = GGUFReader(sys.argv[1]), pathlib.Path(sys.argv[2])
    names = ["tokens", "token_type", "merges"]
    tokens, kinds, merges = (
        source.fields[f"tokenizer.ggml.{name}"].contents() for name in names
    )
    for pre in PRE_TOKENIZERS:
        writer = begin(folder / f"vocab-{pre}.gguf", "gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        writer.add_token_types(kinds)
        writer.add_token_merges(merges)
        writer.add_bos_token_id(source.fields["tokenizer.ggml.bos_token_id"].contents())
        writer.add_eos_token_id(source.fields["tokenizer.ggml.eos_token_id"].contents())
        finish(writer)
    alphabet, pieces = byte_alphabet(), set("abcdefghijklmnopqrstuvwxyz日本語▁")
    for token in tokens[:40000]:
        try:
            text = bytes(alphabet[c] for c in token).decode()
        except (KeyError, UnicodeDecodeError):
            continue
        if text and not set(text) & set("\n<\0"):
            pieces.add(text.replace(" ", "▁"))
    rng = random.Random(5)
    pieces = sorted(pieces)
    rng.shuffle(pieces)
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    writer = begin(folder / "vocab-spm.gguf", "llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *fallback, *pieces])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * len(pieces))
    writer.add_token_scores([0.0] * 259 + [float(-rng.randrange(3000)) for _ in pieces])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    finish(writer)


if __name__ == "__main__":
    main()
