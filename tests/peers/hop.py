#!/usr/bin/env python3
"""What a hop between two nodes on loopback adds to a token.

  hop.py MODEL.gguf [--atoll target/release/atoll] [--stages 2 3] [--rounds 7] [--tokens 96]

Runs `atoll run --local` and `--stages N` in turns, each with one computing thread per node, and
compares the time per decoded token. A ring of N stages has N crossings: stage to stage, and the
last back to the origin, which holds the first stage. Reported is the median over rounds of
(time per token spread - time per token alone) / N, with the least and the greatest.
"""

import argparse
import json
import statistics
import subprocess
import tempfile


def token_s(args, place):
    with tempfile.TemporaryDirectory() as data:
        command = [args.atoll, "run", args.model, "Once upon a time", "--raw", "--temp", "0"]
        command += ["--max-tokens", str(args.tokens), "--threads", "1", "--json", *place]
        done = subprocess.run(
            [*command, "--data-dir", data], capture_output=True, check=True, timeout=300
        )
    answer = json.loads(done.stdout)
    stages = answer.get("stages") or []
    return 1 / answer["decode_tokens_per_s"], len(stages)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--atoll", default="target/release/atoll")
    parser.add_argument("--stages", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=96)
    args = parser.parse_args()
    rows = []
    for stages in args.stages:
        added = []
        for _ in range(args.rounds):
            alone, _ = token_s(args, ["--local"])
            spread, count = token_s(args, ["--stages", str(stages)])
            assert count == stages, f"{count} stages instead of {stages}"
            added.append((spread - alone) / stages * 1e6)
        rows.append(
            {
                "stages": stages,
                "hop_us": statistics.median(added),
                "hop_us_min": min(added),
                "hop_us_max": max(added),
            }
        )
    print(json.dumps({"schema": "atoll.peer-hop/1", "rows": rows}))


main()
