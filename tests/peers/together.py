#!/usr/bin/env python3
"""How much faster several clients are together than one: `atoll serve` and plain HTTP.

  together.py MODEL.gguf --atoll target/release/atoll [--clients 4 8] [--tokens 96] [--rounds 3]

Each round asks once alone, then by N clients at once, each with a prompt of its own; the streams'
tokens are compared with those of the same prompts asked one after another. Reported are medians of
tokens/s after the first token (of all clients together, from the moment when the last of them has
its first token to the moment when the first of them ends) and their ratio to one client's. A table
goes to stderr, JSON to stdout. Run it on an idle machine.
"""

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time


def stream(port, model, prompt, tokens):
    """Asks, and returns (times of the pieces, whole text)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0}
    body |= {"stream": True, "logprobs": 0, "ignore_eos": True}
    head = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/completions", json.dumps(body), head)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    times, text = [], ""
    for line in answer:
        if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
            continue
        choice = json.loads(line[6:])["choices"][0]
        if choice.get("text"):
            times.append(time.monotonic())
            text += choice["text"]
    connection.close()
    return times, text


def at_once(port, model, prompts, tokens):
    """Asks all prompts at once; returns (tokens per second together, texts)."""
    found = [None] * len(prompts)

    def ask(i):
        found[i] = stream(port, model, prompts[i], tokens)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    begin = max(times[0] for times, _ in found)
    end = min(times[-1] for times, _ in found)
    pieces = sum(sum(begin < at <= end for at in times) for times, _ in found)
    return pieces / (end - begin), [text for _, text in found]


def start(args, data):
    command = [args.atoll, "serve", args.model, "--json", "--no-mdns", "--api", "127.0.0.1:0"]
    command += ["--listen", "/ip4/127.0.0.1/tcp/0", "--data-dir", data]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    port = None
    for line in server.stdout:
        event = json.loads(line)
        if event.get("event") == "api":
            port = int(event["url"].rsplit(":", 1)[1].strip("/"))
        if event.get("event") == "serving":
            return server, port, event
    sys.exit("atoll serve ended early")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--atoll", default="target/release/atoll")
    parser.add_argument("--clients", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    most = max(args.clients)
    things = ["sea", "moon", "wind", "stone", "tree", "river", "bird", "fire"]
    prompts = [f"A long story about the {things[i % 8]} number {i}. Once" for i in range(most)]
    with tempfile.TemporaryDirectory() as data:
        server, port, event = start(args, data)
        model = event.get("name") or event.get("model")
        try:
            stream(port, model, prompts[0], 4)
            alone = [stream(port, model, prompt, args.tokens)[1] for prompt in prompts]
            speeds = {n: [] for n in [1, *args.clients]}
            equal = True
            for _ in range(args.rounds):
                for n in speeds:
                    speed, texts = at_once(port, model, prompts[:n], args.tokens)
                    speeds[n].append(speed)
                    equal = equal and texts == alone[:n]
        finally:
            server.terminate()
            server.wait(timeout=30)
    one = statistics.median(speeds[1])
    report = []
    for n, found in speeds.items():
        pairs = [speed / base for speed, base in zip(found, speeds[1])]
        row = {"clients": n, "tokens_per_s": statistics.median(found)}
        row |= {"ratio": statistics.median(pairs), "ratio_min": min(pairs), "ratio_max": max(pairs)}
        report.append(row)
        span = f"{row['ratio_min']:.2f}-{row['ratio_max']:.2f}"
        speed = f"{row['tokens_per_s']:.1f} tokens/s, {row['ratio']:.2f} x one's ({span})"
        print(f"{n} clients: {speed}", file=sys.stderr)
    print(f"same answers as alone: {equal}", file=sys.stderr)
    head = {"schema": "atoll.peer-together/1", "model": os.path.basename(args.model)}
    print(json.dumps({**head, "one_tokens_per_s": one, "equal": equal, "rows": report}))
    sys.exit(0 if equal else 1)


main()
