#!/usr/bin/env python3
"""Perplexity of a GGUF file by llama.cpp, counted as its own llama-perplexity counts it.

  perplexity.py MODEL.gguf TEXT [--context 512] [--chunks N] [--threads 2]

Chunks of `context` tokens that do not overlap; the first token of each is replaced by BOS if the
model asks for one; only the second half is scored; the answer is exp(mean of -ln p).
With `--atoll PATH` the same is asked of `atoll eval` and both are compared.
"""

import argparse
import json
import math
import subprocess

import llama_cpp as L

from llama import Llama, log_softmax


def perplexity(path, text, context, chunks_max, threads):
    llama = Llama(path, threads, context, batch=context, repack=False)
    if text.endswith("\n"):
        text = text[:-1]  # llama-perplexity drops the last line end of a file
    ids = llama.tokenize(text)
    chunks = len(ids) // context
    if chunks_max:
        chunks = min(chunks, chunks_max)
    assert len(ids) >= 2 * context, f"{len(ids)} tokens are too few for context {context}"
    first = context // 2
    nll, count = 0.0, 0
    for chunk in range(chunks):
        part = ids[chunk * context : (chunk + 1) * context]
        if L.llama_vocab_get_add_bos(llama.vocab):
            part[0] = L.llama_vocab_bos(llama.vocab)
        llama.clear()
        llama.decode(part, 0, first)
        for position in range(first, context - 1):
            nll -= log_softmax(llama.logits(position))[part[position + 1]]
            count += 1
    return {"ppl": math.exp(nll / count), "tokens": count, "chunks": chunks}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--chunks", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--atoll")
    args = parser.parse_args()
    with open(args.text, encoding="utf-8", newline="") as file:
        text = file.read()
    peer = perplexity(args.model, text, args.context, args.chunks, args.threads)
    answer = {"schema": "atoll.peer-perplexity/1", "llama_cpp": peer}
    if args.atoll:
        command = [args.atoll, "eval", args.model, "--text", args.text, "--json"]
        command += ["--ctx", str(args.context), "--chunks", str(peer["chunks"])]
        done = subprocess.run(command, capture_output=True, check=True, timeout=1800)
        ours = json.loads(done.stdout)
        answer["atoll"] = {"ppl": ours["ppl"], "tokens": ours["tokens"]}
        answer["relative_difference"] = ours["ppl"] / peer["ppl"] - 1
    print(json.dumps(answer))


main()
