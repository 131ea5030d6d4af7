#!/usr/bin/env python3
"""Loads a model folder with transformers and compares its logits with expected ones.

    python scripts/check_export.py FOLDER EXPECTED.safetensors [--tolerance 1e-4]
    python scripts/check_export.py FOLDER PLAIN_FOLDER [--tolerance 1e-4]

FOLDER is what alambic exported (plain or compressed-tensors). Against a plain f32 export of the same student, every weight that compressed-tensors
decodes must equal the plain one in every bit, and the logits of some ids those of the plain folder. Else EXPECTED holds `input_ids` [T] and the logits [T, V] that the folder
should give in f32: `logits_f32` or `logits_dequant_f32`, as `tests/golden/*/expected/logits.safetensors` does. Exit code 1 if they
differ by more than the tolerance.

Needs: pip install torch transformers compressed-tensors accelerate
"""
import argparse
import pathlib
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder")
parser.add_argument("expected")
parser.add_argument("--tolerance", type=float, default=1e-4)
args = parser.parse_args()



def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


model = load(args.folder)
if pathlib.Path(args.expected).is_dir():
    plain = load(args.expected)
    input_ids = torch.arange(5, 69).reshape(1, -1) % plain.config.vocab_size
    with torch.no_grad():
        want = plain(input_ids).logits[0].float()
else:
    expected = load_file(args.expected)
    want = next(expected[name] for name in ("logits_f32", "logits_dequant_f32") if name in expected)
    input_ids = expected["input_ids"].reshape(1, -1)
    plain = None

with torch.no_grad():
    got = model(input_ids).logits[0].float()  # the first pass decompresses the weights
if plain is not None:
    weights = dict(model.named_parameters())
    unequal = [name for name, weight in plain.named_parameters() if not torch.equal(weights[name].float(), weight)]
    print(f"{len(weights)} weights, of which {len(unequal)} differ from the plain ones: {unequal[:3]}")
    if unequal:
        sys.exit(1)

tokenizer = AutoTokenizer.from_pretrained(args.folder)
text = tokenizer.decode(tokenizer("It was a small test.").input_ids)
difference = (got - want.reshape(got.shape)).abs().max().item()
print(f"{args.folder}: largest logit difference {difference:.2e} (allowed {args.tolerance:.0e}), "
      f"{type(tokenizer).__name__}, eos {tokenizer.eos_token!r}, text there and back: {text!r}")
sys.exit(0 if difference <= args.tolerance else 1)
