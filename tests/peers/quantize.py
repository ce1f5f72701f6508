#!/usr/bin/env python3
"""Writes a GGUF file anew in other types, by llama.cpp's own quantizer.

  quantize.py MODEL.gguf [TYPE ...]

TYPE is one of Q4_0, Q4_K_M, Q8_0, F16 (all without one). MODEL-TYPE.gguf appears beside MODEL.gguf;
one that is there is left as it is.
"""

import argparse
import ctypes
import os
import pathlib

import llama_cpp as L

TYPES = {"F16": 1, "Q4_0": 2, "Q8_0": 7, "Q4_K_M": 15}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("types", nargs="*", metavar="TYPE", choices=[*TYPES, []], default=[])
    args = parser.parse_args()
    for name in args.types or TYPES:
        out = args.model.with_name(f"{args.model.stem}-{name}.gguf")
        if out.exists():
            continue
        params = L.llama_model_quantize_default_params()
        params.ftype = TYPES[name]
        params.allow_requantize = True
        work = out.with_suffix(".work")
        names = (str(path).encode() for path in (args.model, work))
        code = L.llama_model_quantize(*names, ctypes.byref(params))
        if code != 0:
            raise SystemExit(f"{out}: llama_model_quantize returned {code}")
        os.replace(work, out)


main()
