#!/usr/bin/env python3
"""Holds the embeddings of an encoder (BERT in safetensors) against PyTorch's.

    encoder.py compare MODEL_DIR TEXT --atoll PATH   embeds every line of TEXT by both
    encoder.py golden MODEL_DIR OUT.json             what PyTorch makes of three sentences
    encoder.py tiny OUT_DIR                          a tiny random model, and PyTorch on it
    encoder.py sentences TEXT N                      the first N sentences of TEXT, one a line

Needs torch and nothing else: file, tokenizer and forward pass are written out here.
"""

import argparse
import json
import math
import os
import struct
import subprocess
import sys
import unicodedata

SENTENCES = [
    "The tide comes in twice a day, and every boat in the lagoon knows it.",
    "A small computer holds three layers; its neighbour holds the other three.",
    "Café owners in Zürich pay 4.50 francs for unbelievably good espresso!",
]
TINY_WORDS = (
    "[PAD] [UNK] [CLS] [SEP] the tide comes in and out of a lagoon boat ring island small . , ! ? ' "
    "##s ##ing ##ed ##er un ##believ ##able cafe 4 5 ##0 ##1"
).split()


def read_safetensors(path):
    import torch

    data = open(path, "rb").read()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    tensors = {}
    for name, info in header.items():
        if name == "__metadata__" or info["dtype"] != "F32":
            continue
        start, end = info["data_offsets"]
        raw = bytearray(data[8 + length + start : 8 + length + end])
        tensors[name] = torch.frombuffer(raw, dtype=torch.float32).reshape(info["shape"])
    return tensors


def words(text):
    """BERT's words: cleaned, lower case, no accents, punctuation and ideographs apart."""
    out, word = [], ""
    for c in unicodedata.normalize("NFD", text.lower()):
        kind = unicodedata.category(c)
        if kind == "Mn" or ord(c) in (0, 0xFFFD) or (kind[0] == "C" and c not in "\t\n\r"):
            continue
        ascii_mark = c.isascii() and c.isprintable() and not c.isalnum() and c != " "
        apart = ascii_mark or kind[0] == "P" or 0x4E00 <= ord(c) <= 0x9FFF
        if c.isspace() or apart:
            out += [word] if word else []
            word = ""
            out += [c] if apart else []
        else:
            word += c
    return out + ([word] if word else [])


def tokenize(vocab, text, tokens_max):
    ids = []
    for word in words(text):
        pieces, start = [], 0
        while start < len(word) and len(word) <= 100:
            for end in range(len(word), start, -1):
                piece = ("##" if start else "") + word[start:end]
                if piece in vocab:
                    break
            else:
                break
            pieces.append(vocab[piece])
            start = end
        ids += pieces if start == len(word) else [vocab["[UNK]"]]
    return [vocab["[CLS]"]] + ids[: tokens_max - 2] + [vocab["[SEP]"]]


class Bert:
    def __init__(self, folder):
        self.config = json.load(open(os.path.join(folder, "config.json")))
        self.tensors = read_safetensors(os.path.join(folder, "model.safetensors"))
        self.vocab = json.load(open(os.path.join(folder, "tokenizer.json")))["model"]["vocab"]
        path = os.path.join(folder, "sentence_bert_config.json")
        positions = self.config["max_position_embeddings"]
        known = os.path.exists(path)
        self.tokens_max = json.load(open(path))["max_seq_length"] if known else positions

    def linear(self, name, x):
        return x @ self.tensors[name + ".weight"].T + self.tensors[name + ".bias"]

    def norm(self, name, x):
        import torch

        weight, bias = self.tensors[name + ".weight"], self.tensors[name + ".bias"]
        eps = self.config["layer_norm_eps"]
        return torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias, eps)

    def embed(self, text):
        import torch

        ids = tokenize(self.vocab, text, self.tokens_max)
        tables = [
            self.tensors[f"embeddings.{kind}_embeddings.weight"]
            for kind in ("word", "token_type", "position")
        ]
        x = tables[0][ids] + tables[1][0] + tables[2][: len(ids)]
        x = self.norm("embeddings.LayerNorm", x)
        heads = self.config["num_attention_heads"]
        split = lambda x: x.reshape(len(ids), heads, -1).transpose(0, 1)
        for layer in range(self.config["num_hidden_layers"]):
            name = f"encoder.layer.{layer}."
            q, k, v = (
                split(self.linear(f"{name}attention.self.{kind}", x))
                for kind in ("query", "key", "value")
            )
            scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
            seen = (torch.softmax(scores, -1) @ v).transpose(0, 1).reshape(len(ids), -1)
            seen = self.linear(name + "attention.output.dense", seen)
            x = self.norm(name + "attention.output.LayerNorm", x + seen)
            inner = torch.nn.functional.gelu(self.linear(name + "intermediate.dense", x))
            x = self.norm(name + "output.LayerNorm", x + self.linear(name + "output.dense", inner))
        return ids, torch.nn.functional.normalize(x.mean(0), dim=0).tolist()


def golden(folder, out, texts):
    model = Bert(folder)
    cases = []
    for text in texts:
        ids, values = model.embed(text)
        cases.append({"text": text, "ids": ids, "embedding": [round(v, 8) for v in values]})
    with open(out, "w") as file:
        json.dump({"cases": cases}, file)
        file.write("\n")


def tiny(folder):
    """Two layers of width 32, four heads of 8, 64 neurons, 24 positions, 20 tokens a text."""
    import torch

    os.makedirs(folder, exist_ok=True)
    torch.manual_seed(7)
    dim, ffn = 32, 64
    shapes = {
        "embeddings.word_embeddings.weight": (len(TINY_WORDS), dim),
        "embeddings.position_embeddings.weight": (24, dim),
        "embeddings.token_type_embeddings.weight": (2, dim),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in range(2):
        name = f"encoder.layer.{layer}."
        linears = [(f"attention.self.{kind}", dim, dim) for kind in ("query", "key", "value")]
        linears += [("attention.output.dense", dim, dim)]
        linears += [("intermediate.dense", ffn, dim), ("output.dense", dim, ffn)]
        for part, rows, cols in linears:
            shapes[f"{name}{part}.weight"] = (rows, cols)
            shapes[f"{name}{part}.bias"] = (rows,)
        norms += [name + "attention.output.LayerNorm", name + "output.LayerNorm"]
    tensors = {name: torch.randn(shape) * 0.3 for name, shape in shapes.items()}
    for name in norms:
        tensors[name + ".weight"] = 1 + torch.randn(dim) * 0.2
        tensors[name + ".bias"] = torch.randn(dim) * 0.2
    header, data = {}, b""
    for name, tensor in sorted(tensors.items()):
        raw = tensor.numpy().astype("<f4").tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(folder, "model.safetensors"), "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)
    config = {
        "model_type": "bert", "hidden_size": dim, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": ffn, "vocab_size": len(TINY_WORDS),
        "max_position_embeddings": 24, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
    }
    special = [
        {"id": id, "content": word, "special": True}
        for id, word in enumerate(TINY_WORDS) if word.startswith("[")
    ]
    tokenizer = {
        "added_tokens": special,
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                       "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100,
                  "vocab": {word: id for id, word in enumerate(TINY_WORDS)}},
    }
    beside = {"max_seq_length": 20}
    files = {"config": config, "tokenizer": tokenizer, "sentence_bert_config": beside}
    for name, content in files.items():
        with open(os.path.join(folder, name + ".json"), "w") as file:
            json.dump(content, file, indent=1)
            file.write("\n")
    texts = ["The tide comes in.", "Unbelievable CAFÉ, islands!", "a boat's ring " * 9]
    golden(folder, os.path.join(folder, "expected.json"), texts)


def sentences(path, count):
    """Sentences of at least 5 words of WikiText, whose headings begin with `=`."""
    found = []
    for line in open(path, encoding="utf-8"):
        if not line.strip().startswith("="):
            found += [part.strip() + " ." for part in line.strip().split(" . ")]
    return [part for part in found if len(part.split()) > 5][:count]


def compare(folder, text, atoll):
    model = Bert(folder)
    lines = [line for line in open(text, encoding="utf-8").read().split("\n") if line.strip()]
    run = [atoll, "embed", folder, "--text", text, "--json"]
    ours = json.loads(subprocess.run(run, check=True, stdout=subprocess.PIPE).stdout)["texts"]
    assert len(ours) == len(lines), f"{len(ours)} embeddings of {len(lines)} lines"
    worst, tokens = 0.0, 0
    for line, our in zip(lines, ours):
        ids, values = model.embed(line)
        if our["tokens"] != len(ids):
            sys.exit(f"{our['tokens']} tokens, not {len(ids)}: {line}")
        tokens += len(ids)
        worst = max(worst, max(abs(a - b) for a, b in zip(values, our["embedding"])))
    print(f"{len(lines)} texts, {tokens} tokens, largest difference {worst:.2e}")
    if worst > 1e-5:
        sys.exit("more than 1e-5")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["compare", "golden", "tiny", "sentences"])
    parser.add_argument("args", nargs="+")
    parser.add_argument("--atoll", default="atoll")
    given = parser.parse_args()
    if given.what == "compare":
        compare(*given.args, given.atoll)
    elif given.what == "golden":
        golden(*given.args, SENTENCES)
    elif given.what == "tiny":
        tiny(*given.args)
    else:
        print("\n".join(sentences(given.args[0], int(given.args[1]))))


if __name__ == "__main__":
    main()
