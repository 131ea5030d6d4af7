#!/usr/bin/env python3
"""Tokens per second of a teacher on this machine: `alambic cache build` against transformers, same rows, same batch.

    cargo build --release --bin alambic --bench capture
    python3 -m venv venv && venv/bin/pip install torch transformers
    venv/bin/python scripts/bench_capture.py --checkpoint FOLDER        # a Hugging Face folder with tokenizer.json
    venv/bin/python scripts/bench_capture.py                            # random weights, as many as SmolLM2-135M has

Both programs take the likeliest --top-k tokens and the log-sum-exp of every position. The two run alternately, each in a process of
its own, --repeats times after one run each that does not count; medians, their spread and both peak memories are printed.

alambic: the seconds that its cache stage records: open the weights, run them, select, compress and write the cache. transformers:
eager PyTorch under `inference_mode`, one batch after the other, logits of a whole batch at a time as `model(ids).logits` gives them;
loading the weights is left out of its seconds, and nothing is written.

Without --checkpoint the weights are random and so are the rows, and `benches/capture.rs` runs instead of `alambic cache build`: nothing
is compressed or written. With --bf16 alambic's products round their operands to bf16 and everything else is in f32; transformers has
its model in bfloat16.

With --gguf NAME both read that file of FOLDER instead (transformers needs `pip install gguf`) and dequantise it to f32.
"""
import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import benches
from benches import ROOT

SMOLLM2_135M = dict(hidden_size=576, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, intermediate_size=1536, vocab_size=49152)
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--checkpoint", type=pathlib.Path, help="Hugging Face folder")
parser.add_argument("--gguf", help="name of a GGUF file in the folder to read instead")
parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/alambic")
parser.add_argument("--bench", type=pathlib.Path, help="the bench of random weights; default: the newest target/release/deps/capture-*")
parser.add_argument("--bf16", action="store_true", help="bf16 instead of f32, both programs")
parser.add_argument("--rows", type=int, default=64)
parser.add_argument("--sequence-length", type=int, default=256)
parser.add_argument("--batch", type=int, default=8, help="rows in one forward pass")
parser.add_argument("--top-k", type=int, default=64)
parser.add_argument("--repeats", type=int, default=5)
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--json", type=pathlib.Path, help="write every run to this file, too")
parser.add_argument("--only", choices=["alambic", "transformers"], help="run one of the two, once, and print its figures as JSON")
args = parser.parse_args()
if args.gguf and not args.checkpoint:
    parser.error("--gguf names a file of the folder --checkpoint")
if not args.checkpoint and (args.batch, args.top_k) != (8, 64):
    parser.error("the bench of random weights has batches of 8 and a top 64")


def peak_mib(who):
    return resource.getrusage(who).ru_maxrss / 1024


def run_alambic():
    """Builds a cache in a fresh folder; its training rows and one batch of validation rows go through the teacher."""
    tokens = args.rows * args.sequence_length
    checked = args.batch * args.sequence_length
    with tempfile.TemporaryDirectory() as folder:
        recipe = pathlib.Path(folder) / "bench.yaml"
        paths = {name: json.dumps(str(path.resolve())) for name, path in [
            ("train", ROOT / "datasets/austen/train"),
            ("validation", ROOT / "datasets/austen/validation"),
            ("checkpoint", args.checkpoint / (args.gguf or "")),
        ]}
        recipe.write_text(f"""\
name: bench
output: runs
data:
  train: [{paths["train"]}]
  validation: [{paths["validation"]}]
  sequence_length: {args.sequence_length}
  validation_tokens: {checked}
teacher: {{ checkpoint: {paths["checkpoint"]}, batch_size: {args.batch}{", precision: bf16" if args.bf16 else ""} }}
cache: {{ tokens: {tokens}, support: {{ top_k: {args.top_k} }} }}
student: {{ architecture: {{ num_hidden_layers: 1, hidden_size: 8, num_attention_heads: 1, intermediate_size: 8 }} }}
passes: [distill: {{ steps: 1, tokens_per_step: {args.sequence_length} }}]
export: {{ formats: [] }}
""")
        command = [args.binary, "cache", "build", recipe, "--quiet", "--json"]
        environment = os.environ | {"RAYON_NUM_THREADS": str(args.threads)}
        built = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout)
        secs = json.loads((pathlib.Path(built["cache"]) / "artifact.json").read_text())["secs"]
    return (tokens + checked) / secs, peak_mib(resource.RUSAGE_CHILDREN)


def run_bench():
    """Random rows through random weights."""
    command = [args.bench or benches.newest("capture"), "--rows", str(args.rows), "--sequence-length", str(args.sequence_length),
               "--threads", str(args.threads), "--repeats", "1", *(["--bf16"] if args.bf16 else [])]
    figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return figures["tokens_per_sec"], figures["peak_mib"]


def run_transformers():
    import torch

    torch.set_num_threads(args.threads)
    needed = args.rows * args.sequence_length
    model, ids = (of_checkpoint if args.checkpoint else of_random_weights)(needed, torch.bfloat16 if args.bf16 else torch.float32)
    rows = torch.tensor(ids).reshape(args.rows, args.sequence_length)
    with torch.inference_mode():
        model(rows[:1])  # what the first call sets up is not counted
        since = time.perf_counter()
        for batch in rows.split(args.batch):
            logits = model(batch, use_cache=False).logits
            values, kept = logits.topk(args.top_k)
            values -= logits.logsumexp(-1, keepdim=True)
        secs = time.perf_counter() - since
    return needed / secs, peak_mib(resource.RUSAGE_SELF)


def of_checkpoint(needed, dtype):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"gguf_file": args.gguf} if args.gguf else {}
    tokenizer = AutoTokenizer.from_pretrained(args.checkpoint, **source)
    model = AutoModelForCausalLM.from_pretrained(args.checkpoint, dtype=dtype, **source).eval()
    text = "".join(path.read_text() for path in sorted((ROOT / "datasets/austen/train").glob("*.txt")))
    ids = tokenizer(text[:needed * 8]).input_ids[:needed]
    assert len(ids) == needed, "more rows than text"
    return model, ids


def of_random_weights(needed, dtype):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(17)
    config = LlamaConfig(**SMOLLM2_135M, max_position_embeddings=args.sequence_length, tie_word_embeddings=True, rms_norm_eps=1e-5)
    model = LlamaForCausalLM._from_config(config, attn_implementation="sdpa", dtype=dtype).eval()
    return model, torch.randint(SMOLLM2_135M["vocab_size"], (needed,)).tolist()


if args.only:
    ours = run_alambic if args.checkpoint else run_bench
    rate, peak = ours() if args.only == "alambic" else run_transformers()
    print(json.dumps({"tokens_per_sec": rate, "peak_mib": peak}))
    sys.exit()


def measure(program):
    command = [sys.executable, *sys.argv, "--only", program]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


programs = ["alambic", "transformers"]
runs = {program: [] for program in programs}
for repeat in range(args.repeats + 1):
    for program in programs:
        result = measure(program)
        note = "" if repeat else " (not counted)"
        print(f"{program}: {result['tokens_per_sec']:.0f} tokens/s, peak {result['peak_mib']:.0f} MiB{note}", file=sys.stderr)
        if repeat:
            runs[program].append(result)

median = {}
for program in programs:
    rates = [run["tokens_per_sec"] for run in runs[program]]
    median[program] = statistics.median(rates)
    peak = max(run["peak_mib"] for run in runs[program])
    print(f"{program}, {'bf16' if args.bf16 else 'f32'}: median {median[program]:.0f} tokens/s ({min(rates):.0f} to {max(rates):.0f}, n = {len(rates)}), peak {peak:.0f} MiB")
ratios = sorted(ours["tokens_per_sec"] / theirs["tokens_per_sec"] for ours, theirs in zip(*runs.values()))
print(f"alambic / transformers: {median['alambic'] / median['transformers']:.2f} of medians; pair by pair {ratios[0]:.2f} to {ratios[-1]:.2f}")
if args.json:
    args.json.write_text(json.dumps(runs, indent=1))
