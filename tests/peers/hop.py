#!/usr/bin/env python3
"""What a hop between two nodes on loopback adds to a token.

  hop.py MODEL.gguf [--atoll target/release/atoll] [--stages 2 3] [--rounds 5] [--tokens 96]

Runs `atoll run --local` and `--stages N` in turns, each with one computing thread per node. A ring
of N stages has N crossings: stage to stage, and the last back to the origin, which holds the first.
Two figures for each N, medians over the rounds with the least and the greatest, in µs:

  hop     what the run itself measured: (a token's round trip by the origin's clock - the times
          that the nodes computed, each by its own clock) / crossings; a run's figure is the median
          over its tokens
  paired  (time per token spread - time per token alone) / crossings, which also counts what
          computing itself loses or wins by being spread over processes
"""

import argparse
import json
import statistics
import subprocess
import tempfile


def run(args, place):
    with tempfile.TemporaryDirectory() as data:
        command = [args.atoll, "run", args.model, "Once upon a time", "--raw", "--temp", "0"]
        command += ["--max-tokens", str(args.tokens), "--threads", "1", "--json", *place]
        done = subprocess.run(
            [*command, "--data-dir", data], capture_output=True, check=True, timeout=300
        )
    return json.loads(done.stdout)


def summary(name, values):
    middle = statistics.median(values)
    return {f"{name}_us": middle, f"{name}_us_min": min(values), f"{name}_us_max": max(values)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--atoll", default="target/release/atoll")
    parser.add_argument("--stages", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=96)
    args = parser.parse_args()
    rows = []
    for stages in args.stages:
        hop, wire, paired = [], [], []
        for _ in range(args.rounds):
            alone = run(args, ["--local"])
            spread = run(args, ["--stages", str(stages)])
            assert alone["tokens"] == spread["tokens"], "other tokens when spread"
            ring = spread["ring"]
            assert ring["crossings"] == stages, f"{ring['crossings']} crossings, {stages} stages"
            hop.append(ring["hop_us_median"])
            wire.append(ring["wire_us_median"])
            more_s = 1 / spread["decode_tokens_per_s"] - 1 / alone["decode_tokens_per_s"]
            paired.append(more_s / stages * 1e6)
        row = {"stages": stages, **summary("hop", hop), **summary("wire", wire)}
        rows.append({**row, **summary("paired", paired)})
    print(json.dumps({"schema": "atoll.peer-hop/1", "rows": rows}))


main()
