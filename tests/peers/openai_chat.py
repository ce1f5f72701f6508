#!/usr/bin/env python3
"""Chats with a running `atoll serve` through the `openai` package, and prints what came as JSON.

  openai_chat.py BASE_URL MODEL PROMPT [--max-tokens 48] [--at-once N]

One chat streamed, one whole, then N streamed at once with prompts of their own, each of them also
alone: {"stream", "whole", "at_once": [..], "alone": [..], "models": [..]}.
"""

import argparse
import json
from concurrent.futures import ThreadPoolExecutor

from openai import OpenAI

ENDINGS = ["", " Briefly.", " In one word.", " Why?", " And then?", " Really?", " When?", " OK?"]


def ask(client, model, prompt, max_tokens, stream):
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": prompt}],
        temperature=0,
        max_tokens=max_tokens,
        stream=stream,
    )
    if not stream:
        return answer.choices[0].message.content
    text, roles, reasons, ids = "", [], [], set()
    for chunk in answer:
        ids.add((chunk.id, chunk.model, chunk.created))
        for choice in chunk.choices:
            text += choice.delta.content or ""
            roles += [choice.delta.role] if choice.delta.role else []
            reasons += [choice.finish_reason] if choice.finish_reason else []
    assert roles == ["assistant"], roles
    assert len(reasons) == 1 and reasons[0] in ("stop", "length"), reasons
    assert len(ids) == 1, ids
    return text


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("base_url")
    parser.add_argument("model")
    parser.add_argument("prompt")
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--at-once", type=int, default=8)
    args = parser.parse_args()
    # The strict mode raises on any answer that is not exactly of the documented shape.
    client = OpenAI(
        base_url=args.base_url,
        api_key="none",
        max_retries=0,
        timeout=300,
        _strict_response_validation=True,
    )

    def one(prompt, stream=True):
        return ask(client, args.model, prompt, args.max_tokens, stream)

    prompts = [args.prompt + ENDINGS[i % len(ENDINGS)] for i in range(args.at_once)]
    with ThreadPoolExecutor(max(1, args.at_once)) as pool:
        at_once = list(pool.map(one, prompts))
    answer = {
        "models": [model.id for model in client.models.list()],
        "stream": one(args.prompt),
        "whole": one(args.prompt, stream=False),
        "at_once": at_once,
        "alone": [one(prompt) for prompt in prompts],
    }
    print(json.dumps(answer))


main()
