#!/usr/bin/env python3
"""Greedy tokens and first log-probabilities: llama.cpp beside `atoll run --local`.

  golden.py MODEL.gguf GOLDEN.json [--atoll target/release/atoll] [--write NEW.json]

Asks llama.cpp again for every prompt of GOLDEN.json (one thread, greedy, no template, no BOS) and,
with `--atoll`, compares atoll's answer with it: prompt ids, tokens up to the first position whose
gap between the two best log-probabilities is below 0.15, and the first position's ten best.
"""

import argparse
import json
import subprocess
import sys

import numpy as np

from llama import Llama, log_softmax

GAP = 0.15
TOP10 = 0.2


def greedy(llama, prompt, n):
    ids = llama.tokenize(prompt, special=True)
    llama.clear()
    llama.decode(ids, 0, len(ids) - 1)
    tokens, gaps, top10 = [], [], None
    for i in range(n):
        logprobs = log_softmax(llama.logits(-1))
        best = np.argsort(-logprobs)[:10]
        top10 = top10 or [[int(t), round(float(logprobs[t]), 5)] for t in best]
        gaps.append(round(float(logprobs[best[0]] - logprobs[best[1]]), 4))
        tokens.append(int(best[0]))
        llama.decode(tokens[-1:], len(ids) + i, len(ids) + i)
    row = {"prompt": prompt, "prompt_ids": ids, "tokens": tokens, "top10": top10, "gaps": gaps}
    return row


def ask_atoll(atoll, model, prompt, n):
    command = [atoll, "run", model, prompt, "--local", "--raw", "--temp", "0", "--json"]
    command += ["--max-tokens", str(n), "--logprobs", "10"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=600)
    return json.loads(done.stdout)


def compare(case, answer):
    close = next((i for i, gap in enumerate(case["gaps"]) if gap < GAP), len(case["gaps"]))
    same = 0
    for ours, theirs in zip(answer["tokens"], case["tokens"]):
        if ours != theirs:
            break
        same += 1
    ours = {entry["id"]: entry["logprob"] for entry in answer["logprobs"][0]["top"]}
    worst = max(abs(ours.get(token, -99.0) - logprob) for token, logprob in case["top10"][:9])
    return {
        "prompt": case["prompt"],
        "prompt_ids_equal": answer["prompt_tokens"] == case["prompt_ids"],
        "tokens_equal": same,
        "must_equal": close,
        "top10_worst": worst,
        "ok": answer["prompt_tokens"] == case["prompt_ids"] and same >= close and worst <= TOP10,
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("golden")
    parser.add_argument("--atoll")
    parser.add_argument("--write")
    parser.add_argument("--tokens", type=int, default=64)
    args = parser.parse_args()
    with open(args.golden, encoding="utf-8") as file:
        golden = json.load(file)
    llama = Llama(args.model, 1, 4096)
    fresh = [greedy(llama, case["prompt"], args.tokens) for case in golden["cases"]]
    if args.write:
        with open(args.write, "w", encoding="utf-8") as file:
            json.dump({**golden, "cases": fresh}, file, ensure_ascii=False)
    answer = {"schema": "atoll.peer-golden/1", "cases": []}
    for old, case in zip(golden["cases"], fresh):
        row = {"prompt": case["prompt"], "golden_holds": old["tokens"] == case["tokens"]}
        if args.atoll:
            ours = ask_atoll(args.atoll, args.model, case["prompt"], args.tokens)
            row.update(compare(case, ours))
        answer["cases"].append(row)
    print(json.dumps(answer))
    sys.exit(0 if all(row.get("ok", True) for row in answer["cases"]) else 1)


main()
