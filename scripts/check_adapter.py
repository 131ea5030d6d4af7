#!/usr/bin/env python3
"""Loads an adapter with peft and compares its logits with those of the model that it was merged into.

    python scripts/check_adapter.py BASE ADAPTER MERGED [--tolerance 1e-4]

BASE and MERGED are model folders, the second exported with `dtype: f32`; ADAPTER is the `adapter/` of a pass. Exit code 1 if logits of
random tokens differ by more than the tolerance, or if the adapter does nothing.

Needs: pip install torch transformers peft
"""
import argparse
import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("base")
parser.add_argument("adapter")
parser.add_argument("merged")
parser.add_argument("--tolerance", type=float, default=1e-4)
args = parser.parse_args()

load = lambda folder: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
base, merged = load(args.base), load(args.merged)
ids = torch.randint(0, base.config.vocab_size, (2, 24), generator=torch.Generator().manual_seed(1))
with torch.no_grad():
    before, want = base(ids).logits, merged(ids).logits
    got = PeftModel.from_pretrained(base, args.adapter).eval()(ids).logits
moved, difference = (got - before).abs().max().item(), (got - want).abs().max().item()
print(f"{args.adapter}: moves logits by up to {moved:.2e}; largest difference from the merged model {difference:.2e} (allowed {args.tolerance:.0e})")
sys.exit(0 if difference <= args.tolerance < moved else 1)
