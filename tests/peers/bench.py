#!/usr/bin/env python3
"""Paired speed of `atoll bench` and llama.cpp on the same file.

  bench.py MODEL.gguf --atoll target/release/atoll [--threads 1 2] [--pairs 5] [--pp 512] [--tg 128]

Both run as fresh processes in turns, the first of each pair changing sides. Each warms up, then
measures once: a prefill of `pp` tokens from an empty cache, and `tg` decoded tokens. Reported are
medians in tokens/s and the median, least and greatest of the pairs' ratios atoll / llama.cpp.
A table goes to stderr, JSON to stdout. Run it on an idle machine.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys


def llama_once(model, threads, pp, tg):
    from llama import Llama

    llama = Llama(model, threads, pp + tg + 64, batch=max(pp, 16))
    draw = random.Random(1)
    ids = [draw.randrange(llama.n_vocab) for _ in range(pp)]
    llama.timed(ids, 0)
    llama.clear()
    prefill_s = llama.timed(ids, 0)
    llama.clear()
    llama.timed(ids[:16], 0)
    decode_s = sum(llama.timed([ids[i % pp]], 16 + i) for i in range(tg))
    return {"prefill": pp / prefill_s, "decode": tg / decode_s}


def atoll_once(atoll, model, threads, pp, tg):
    command = [atoll, "bench", model, "--threads", str(threads), "--pp", str(pp)]
    command += ["--tg", str(tg), "--repeat", "1", "--json"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=900)
    answer = json.loads(done.stdout)
    assert answer["schema"] == "atoll.bench/1", answer
    return {
        "prefill": statistics.median(answer["prefill_tokens_per_s"]),
        "decode": statistics.median(answer["decode_tokens_per_s"]),
    }


def peer_once(model, threads, pp, tg):
    command = [sys.executable, os.path.abspath(__file__), model, "--llama-once"]
    command += ["--threads", str(threads), "--pp", str(pp), "--tg", str(tg)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=900)
    return json.loads(done.stdout)


def paired(args, threads):
    pairs = []
    for index in range(args.pairs):
        sides = [
            ("atoll", lambda: atoll_once(args.atoll, args.model, threads, args.pp, args.tg)),
            ("llama_cpp", lambda: peer_once(args.model, threads, args.pp, args.tg)),
        ]
        if index % 2:
            sides.reverse()
        pairs.append({name: measure() for name, measure in sides})
    row = {"threads": threads, "pairs": pairs}
    for what in ("prefill", "decode"):
        ratios = [pair["atoll"][what] / pair["llama_cpp"][what] for pair in pairs]
        row[what] = {
            "atoll_tokens_per_s": statistics.median(p["atoll"][what] for p in pairs),
            "llama_cpp_tokens_per_s": statistics.median(p["llama_cpp"][what] for p in pairs),
            "ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
        }
    return row


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--atoll", default="target/release/atoll")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--pp", type=int, default=512)
    parser.add_argument("--tg", type=int, default=128)
    parser.add_argument("--llama-once", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.llama_once:
        print(json.dumps(llama_once(args.model, args.threads[0], args.pp, args.tg)))
        return
    rows = [paired(args, threads) for threads in args.threads]
    line = "{:>7} {:>8} {:>10} {:>10} {:>7}  {}"
    print(line.format("threads", "what", "atoll", "llama.cpp", "ratio", "min-max"), file=sys.stderr)
    for row in rows:
        for what in ("prefill", "decode"):
            r = row[what]
            span = f"{r['ratio_min']:.2f}-{r['ratio_max']:.2f}"
            ours, peers = r["atoll_tokens_per_s"], r["llama_cpp_tokens_per_s"]
            cells = [row["threads"], f"{what[:8]}", f"{ours:.1f}", f"{peers:.1f}"]
            print(line.format(*cells, f"{r['ratio']:.2f}", span), file=sys.stderr)
    head = {"schema": "atoll.peer-bench/1", "model": os.path.basename(args.model)}
    print(json.dumps({**head, "pp": args.pp, "tg": args.tg, "rows": rows}))


main()
