#!/usr/bin/env python3
"""Loads a model folder with transformers and compares its logits with expected ones.

    python scripts/check_export.py FOLDER EXPECTED.safetensors [--tolerance 1e-4]

FOLDER is what alambic exported (plain or compressed-tensors). EXPECTED holds `input_ids` [T] and the logits [T, V] that the folder
should give in f32: `logits_f32` or `logits_dequant_f32`, as `tests/golden/*/expected/logits.safetensors` does. Exit code 1 if they
differ by more than the tolerance.

Needs: pip install torch transformers compressed-tensors accelerate
"""
import argparse
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder")
parser.add_argument("expected")
parser.add_argument("--tolerance", type=float, default=1e-4)
args = parser.parse_args()

expected = load_file(args.expected)
want = next(expected[name] for name in ("logits_f32", "logits_dequant_f32") if name in expected)
input_ids = expected["input_ids"].reshape(1, -1)

model = AutoModelForCausalLM.from_pretrained(args.folder, dtype=torch.float32, attn_implementation="eager").eval()
with torch.no_grad():
    got = model(input_ids).logits[0].float()

tokenizer = AutoTokenizer.from_pretrained(args.folder)
text = tokenizer.decode(tokenizer("It was a small test.").input_ids)
difference = (got - want.reshape(got.shape)).abs().max().item()
print(f"{args.folder}: largest logit difference {difference:.2e} (allowed {args.tolerance:.0e}), "
      f"{type(tokenizer).__name__}, eos {tokenizer.eos_token!r}, text there and back: {text!r}")
sys.exit(0 if difference <= args.tolerance else 1)
