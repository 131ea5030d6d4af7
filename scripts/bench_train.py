#!/usr/bin/env python3
"""Tokens per second and peak memory of training on this machine: `benches/train_step.rs` against PyTorch, same shapes.

    cargo build --release --bench train_step
    python3 -m venv venv && venv/bin/pip install torch transformers
    venv/bin/python scripts/bench_train.py

Two students, a step of 2,048 positions each: `small` (hidden 256, 6 layers, 4 heads, MLP 688, vocabulary 8,192, cross-entropy) and
`large` (hidden 576, 12 layers, 9 heads of which 3 have keys, MLP 1,536, vocabulary 49,152, KL against 64 ids and a bucket for the
rest). Forward, loss, backward, clipping to norm 1, AdamW. PyTorch runs transformers' own Llama: eager, its fused attention
(`sdpa`), its fused AdamW, all rows at once. alambic runs --micro-batch rows at once on each core, as recipes do by default.

`--models pay_off` shows what a cache is worth: the student is `medium` (hidden 384, 6 layers, 28 million parameters), its teacher is as
large as SmolLM2-135M (random weights: they cost the same). alambic reads the teacher's 64 likeliest ids, PyTorch runs the teacher along
under `no_grad` and takes the KL over the whole vocabulary. Reading a real cache adds under 1 % to alambic's step
(`alambic cache bench` tells how many positions a second are decoded).

With --bf16 alambic's products round their operands to bf16, and PyTorch runs forward and loss under `autocast` to bfloat16; weights,
logits in the loss and optimizer stay in f32 in both.

The two run alternately, each in a process of its own, --repeats times after one run each that does not count. Medians of tokens a
second, of processor seconds a step (the figure to compare on a machine that does other work, too) and peak memory are printed.
"""
import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time

import benches

POSITIONS, TOP_K = 2048, 64
MODELS = {
    "small": dict(hidden_size=256, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=4, intermediate_size=688, vocab_size=8192),
    "pay_off": dict(hidden_size=384, num_hidden_layers=6, num_attention_heads=6, num_key_value_heads=2, intermediate_size=1024, vocab_size=49152),
    "large": dict(hidden_size=576, num_hidden_layers=12, num_attention_heads=9, num_key_value_heads=3, intermediate_size=1536, vocab_size=49152),
}
TEACHER = dict(hidden_size=576, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, intermediate_size=1536, vocab_size=49152)
BENCHES = {"pay_off": "medium"}  # the bench's name for a model, where it is another
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--models", nargs="+", choices=MODELS, default=["small", "large"])
parser.add_argument("--binary", type=pathlib.Path, help="the bench; default: the newest target/release/deps/train_step-*")
parser.add_argument("--steps", type=int, default=5, help="steps of a run, after one that does not count")
parser.add_argument("--sequence-length", type=int, default=256)
parser.add_argument("--micro-batch", type=int, default=4, help="rows at once on each core, alambic only")
parser.add_argument("--bf16", action="store_true", help="products in bf16 instead of f32, both programs")
parser.add_argument("--repeats", type=int, default=3)
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--json", type=pathlib.Path, help="write every run to this file, too")
parser.add_argument("--only", nargs=2, metavar=("PROGRAM", "MODEL"), help="run `alambic` or `torch` once, and print its figures as JSON")
args = parser.parse_args()


def run_alambic(model):
    command = [args.binary or benches.newest("train_step"), BENCHES.get(model, model), "--steps", str(args.steps), "--micro-batch", str(args.micro_batch),
               "--sequence-length", str(args.sequence_length), *(["--bf16"] if args.bf16 else [])]
    environment = os.environ | {"RAYON_NUM_THREADS": str(args.threads)}
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout)


def run_torch(name):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(args.threads)
    torch.manual_seed(17)
    shape = MODELS[name]

    def llama(shape):
        config = LlamaConfig(**shape, max_position_embeddings=args.sequence_length, tie_word_embeddings=True, use_cache=False, rms_norm_eps=1e-5)
        return LlamaForCausalLM._from_config(config, attn_implementation="sdpa", dtype=torch.float32)

    model = llama(shape).train()
    teacher = llama(TEACHER).eval() if name == "pay_off" else None
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    vocab = shape["vocab_size"]
    ids = torch.randint(vocab, (POSITIONS // args.sequence_length, args.sequence_length))
    labels = torch.randint(vocab, (POSITIONS,))
    support = torch.randint(vocab // TOP_K, (POSITIONS, TOP_K)) + torch.arange(TOP_K) * (vocab // TOP_K)
    probs = 1 / torch.arange(1, TOP_K + 1)
    probs = (0.9 * probs / probs.sum()).expand(POSITIONS, TOP_K)
    tail = 0.1

    def loss_of(logits):
        if name == "small":
            return torch.nn.functional.cross_entropy(logits, labels)
        if teacher:
            with torch.no_grad():
                opinion = teacher(ids).logits.flatten(0, 1).float().log_softmax(1)
            return torch.nn.functional.kl_div(logits.log_softmax(1), opinion, reduction="batchmean", log_target=True)
        kept = logits.gather(1, support) - logits.logsumexp(1, keepdim=True)  # log q on the support
        rest = torch.log1p(-kept.exp().sum(1).clamp(max=1 - 1e-6))  # log q of the bucket
        kl = (probs * (probs.log() - kept)).sum(1) + tail * (torch.log(torch.tensor(tail)) - rest)
        return kl.mean()

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            loss = loss_of(model(ids).logits.flatten(0, 1).float())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    secs, losses = [], []
    for number in range(args.steps + 1):
        if number == 1:
            cpu = time.process_time()
        since = time.perf_counter()
        losses.append(step())
        secs.append(time.perf_counter() - since)
    return {
        "tokens_per_sec": POSITIONS / statistics.median(secs[1:]),
        "cpu_secs_per_step": (time.process_time() - cpu) / args.steps,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "step_secs": secs,
        "losses": losses,
    }


if args.only:
    program, model = args.only
    print(json.dumps(run_alambic(model) if program == "alambic" else run_torch(model)))
    sys.exit()


def measure(program, model):
    command = [sys.executable, *sys.argv, "--only", program, model]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


record = {}
for model in args.models:
    runs = {"alambic": [], "torch": []}
    for repeat in range(args.repeats + 1):
        for program, results in runs.items():
            result = measure(program, model)
            note = "" if repeat else " (not counted)"
            print(f"{model}, {program}: {result['tokens_per_sec']:.0f} tokens/s, {result['cpu_secs_per_step']:.2f} processor s a step, "
                  f"peak {result['peak_mib']:.0f} MiB{note}", file=sys.stderr)
            if repeat:
                results.append(result)
    record[model] = runs
    ours, theirs = runs["alambic"], runs["torch"]

    def figures(results, key):
        values = [result[key] for result in results]
        return statistics.median(values), min(values), max(values)

    print(f"{model}, {'bf16' if args.bf16 else 'f32'}: {args.threads} threads, medians of {args.repeats} runs of {args.steps} steps (least to most)")
    for key, digits, what in [("tokens_per_sec", 0, "tokens/s"), ("cpu_secs_per_step", 2, "processor s a step"), ("peak_mib", 0, "peak MiB")]:
        us, them = figures(ours, key), figures(theirs, key)
        columns = [f"{middle:.{digits}f} ({least:.{digits}f} to {most:.{digits}f})" for middle, least, most in [us, them]]
        pairs = sorted(a[key] / b[key] for a, b in zip(ours, theirs))
        print(f"  {what:20} alambic {columns[0]:26} torch {columns[1]:26} alambic / torch {us[0] / them[0]:.2f} (pairs {pairs[0]:.2f} to {pairs[-1]:.2f})")
if args.json:
    args.json.write_text(json.dumps(record, indent=1))
