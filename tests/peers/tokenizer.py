"""Token ids of Atoll and of llama.cpp for texts that are hard to cut.

    python tokenizer.py MODEL.gguf [--texts N] [--seed S]

Builds and runs the example `tokenize` of atoll-model from the repository that this file lies in.
"""
import argparse
import json
import pathlib
import random
import subprocess
import sys

from llama_cpp import Llama

HAND = [
    "", " ", "  ", "\n", "\n\n", "\r\n", " \n \n", "\t\tx", "a  b   c    d", "trailing   ",
    "it's we'll I'VE don'T 'S 'sX o'clock '", "1 12 123 1234 12345 3.14159 1e-9 0xFF ٣٤٥ ½ Ⅷ ²",
    "def f(x):\n    return x ** 2  # square\n\n\nclass A:\n\tpass\n", "a\u00a0b\u2003c\u3000d\u200be",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "<|endoftext|><|endoftext|>",
    "<|im_start|<|im_end|>|>", "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>", "<tool_call>x</tool_call>",
    "naïve café e\u0301 Å A\u030a", "日本語のテキスト、漢字とかな。", "한국어 텍스트", "Привет, мир!", "שלום עולם",
    "مرحبا بالعالم", "हिन्दी में पाठ", "ไทย", "🦀🏳️‍🌈👨‍👩‍👧‍👦 emoji", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈", "\ufeffbom \ufffd",
    "x" * 300, " " * 300 + "x", "\n" * 50 + "x", "!?" * 40 + "\n\n", "https://a.b/c?d=e&f=g#h", "…—“quoted”‘’",
    "fn main() { println!(\"{}\", 1 + 2); }\r\n", "SELECT * FROM t WHERE a<>'b';", "\x00\x01\x02\x7f", "C:\\dir\\file.txt",
]
ALPHABET = (
    "abcXYZ019 \t\n\r'’\"!?.,;:-_/\\<>|{}[]()*&^%$#@~`+=éßñøŁżΩЖяאش中日本語한글กเ🦀👍\u00a0\u2003\u3000\u200d\u0301½²٣"
)
PIECES = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", " the", "'s", "'LL"]
PIECES += ["  ", "\n\n", "1234", "    return"]


def random_text(rng: random.Random) -> str:
    parts = []
    for _ in range(rng.randrange(1, 40)):
        roll = rng.random()
        if roll < 0.15:
            parts.append(rng.choice(PIECES))
        elif roll < 0.2:
            code = rng.randrange(0x20, 0x30000)
            if not 0xD800 <= code < 0xE000:
                parts.append(chr(code))
        else:
            parts.append(rng.choice(ALPHABET) * rng.choice([1, 1, 1, 2, 5]))
    return "".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--texts", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    texts = HAND + [random_text(rng) for _ in range(args.texts)]
    root = pathlib.Path(__file__).resolve().parents[2]
    command = ["cargo", "run", "-q", "--release", "-p", "atoll-model", "--example", "tokenize"]
    command += ["--", args.model]
    text = json.dumps(texts)
    run = subprocess.run(command, input=text, capture_output=True, text=True, cwd=root, check=True)
    ours = json.loads(run.stdout)
    llama = Llama(args.model, vocab_only=True, verbose=False)
    wrong = 0
    for text, ids in zip(texts, ours, strict=True):
        theirs = llama.tokenize(text.encode(), add_bos=True, special=True)
        if ids != theirs:
            wrong += 1
            if wrong <= 10:
                print(f"{text!r}\n  ours   {ids}\n  theirs {theirs}")
    print(f"{len(texts)} texts, {wrong} differ (seed {args.seed})")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
