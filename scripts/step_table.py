#!/usr/bin/env python3
"""A training step by kind of work: where the processor time of `benches/train_step.rs` goes.

    cargo build --release --bench train_step
    python3 scripts/step_table.py                       # f32 and bf16, the student `large`
    python3 scripts/step_table.py --binary OTHER/train_step --arguments ""

Needs `perf` of Linux. It samples the bench after --delay seconds, when pages have been touched and the first step is over, and
counts each sample for the innermost function that belongs to a kind. Milliseconds are of processor time for one token.
"""
import argparse
import collections
import json
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
POSITIONS = 2048
# From the innermost function outwards, the first that matches.
KINDS = [
    ("packing", r"PackedLeft::of|PackedRight::of|operand::pack_|flex::pack\b|gemm_common::(?:pack|.*pack_generic)|pack_lhs|pack_rhs"),
    ("attention", r"kernels::attention::host|AttentionStep|::attend\b"),
    ("products", r"bf16::(?:pairs|tiles|compute)|gemm_f32|gemm_common|gemm::gemm|MatrixMut::multiply|float_matmul|matmul"),
    ("norms and activations", r"rms_norm|swiglu|rotation|rotate|RmsNormStep|SwigluStep|RotateStep"),
    ("loss", r"loss::(?:row|softmax|chunked::row_losses|divergence|terms)"),
    ("optimizer", r"train::optim|Rates::update|global_norm|clip"),
    ("gradients added", r"train::gradient::added|train::parts"),
    ("embedding", r"add_embedding_gradient|select"),
]
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--binary", type=pathlib.Path, help="the bench; default: the newest target/release/deps/train_step-*")
parser.add_argument("--model", default="large")
parser.add_argument("--steps", type=int, default=10)
parser.add_argument("--delay", type=float, default=8, help="seconds before sampling begins")
parser.add_argument("--arguments", nargs="+", default=["", "--bf16"], help="arguments of the bench, one run each")
args = parser.parse_args()


def newest_bench():
    found = [path for path in (ROOT / "target/release/deps").glob("train_step-*") if not path.suffix]
    if not found:
        sys.exit("error: no bench: run `cargo build --release --bench train_step`, or name one with --binary")
    return max(found, key=lambda path: path.stat().st_mtime)


def kind_of(stack):
    for frame in stack:
        for kind, pattern in KINDS:
            if re.search(pattern, frame):
                return kind
    return "other"


def measure(arguments):
    with tempfile.TemporaryDirectory() as folder:
        data = pathlib.Path(folder) / "perf.data"
        command = ["perf", "record", "-D", str(int(args.delay * 1000)), "-F", "300", "--call-graph", "dwarf,16384", "-o", data,
                   args.binary or newest_bench(), args.model, "--steps", str(args.steps), *arguments.split()]
        ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        figures = json.loads(ran.stdout.splitlines()[-1])
        script = subprocess.run(["perf", "script", "--no-inline", "-F", "ip,sym", "-i", data], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    counts = collections.Counter(kind_of(stack.splitlines()) for stack in script.stdout.split("\n\n") if stack.strip())
    return figures, counts


rows = {}
for arguments in args.arguments:
    figures, counts = measure(arguments)
    name = arguments or "f32"
    total, per_token = sum(counts.values()), 1000 * figures["cpu_secs_per_step"] / POSITIONS
    print(f"{name}: {figures['tokens_per_sec']:.0f} tokens/s, {per_token:.3f} ms of processor time a token, {total} samples", file=sys.stderr)
    rows[name] = {kind: per_token * counts[kind] / total for kind in [*(kind for kind, _ in KINDS), "other"]}
    rows[name]["all"] = per_token
print("| processor time a token, ms | " + " | ".join(rows) + " |")
print("|---|" + "---|" * len(rows))
for kind in next(iter(rows.values())):
    print(f"| {kind} | " + " | ".join(f"{found[kind]:.3f}" for found in rows.values()) + " |")
