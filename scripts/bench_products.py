#!/usr/bin/env python3
"""GFLOP/s of products in f32 and bf16 on this machine: `benches/gemm.rs` against PyTorch, same shapes.

    cargo build --release --bench gemm
    python3 -m venv venv && venv/bin/pip install torch
    venv/bin/python scripts/bench_products.py

The shapes are those that the bench prints: a square, the linear layers of a training step forward and backward, and those of a
capture. PyTorch runs `F.linear` and `matmul` on tensors of one type: in bf16 it reads bf16 and writes bf16, as under autocast.
alambic reads and writes f32 and rounds on the way; its weights are packed before, once. The slope of a weight is added to a sum.

The two run alternately, each in a process of its own, --pairs times after one run each that does not count. Printed are medians,
and the median of the ratios of the pairs.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

import benches

TIMED_SECS = 0.02  # of calls that are timed together, as in the bench
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--binary", type=pathlib.Path, help="the bench; default: the newest target/release/deps/gemm-*")
parser.add_argument("--pairs", type=int, default=3)
parser.add_argument("--repeats", type=int, default=7, help="timings in a run, of which the median counts")
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--json", type=pathlib.Path, help="write every run to this file, too")
parser.add_argument("--only", choices=["torch"], help="run it once on the products of stdin, and print its rates as JSON")


def run_torch(args):
    import torch
    from torch.nn.functional import linear

    torch.set_num_threads(args.threads)
    torch.manual_seed(17)

    def rate(product, dtype):
        sizes = [product[name] for name in ["positions", "inputs", "outputs"]]
        positions, inputs, outputs = sizes
        x, slope = [torch.rand(positions, size).sub(0.5).to(dtype) for size in [inputs, outputs]]
        weight = torch.rand(outputs, inputs).sub(0.5).to(dtype)
        call = {
            "forward": lambda: linear(x, weight),
            "slope_of_input": lambda: torch.matmul(slope, weight),
            "slope_of_weight": lambda: torch.matmul(slope.t(), x),
        }[product["kind"]]

        def secs(calls):
            since = time.perf_counter()
            for _ in range(calls):
                call()
            return (time.perf_counter() - since) / calls

        secs(1)  # kernels are chosen and compiled at the first call
        calls = min(1000, max(1, round(TIMED_SECS / secs(1))))
        middle = statistics.median(secs(calls) for _ in range(args.repeats))
        return 2 * positions * inputs * outputs / middle / 1e9

    with torch.inference_mode():
        return [{"f32": rate(product, torch.float32), "bf16": rate(product, torch.bfloat16)} for product in json.load(sys.stdin)]


def measure_alambic(args):
    command = [args.binary or benches.newest("gemm"), "--threads", str(args.threads), "--repeats", str(args.repeats)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def measure_torch(args, products):
    command = [sys.executable, *sys.argv, "--only", "torch"]
    return json.loads(subprocess.run(command, check=True, input=json.dumps(products), stdout=subprocess.PIPE, text=True).stdout)


def compared(pairs):
    """For each product and arithmetic: what it is, medians of both, the ratios of the pairs, and the share of the instruction's rate."""
    rows = []
    for at, product in enumerate(pairs[0]["alambic"]["products"]):
        for arithmetic in product["rates"]:
            ours = [pair["alambic"]["products"][at]["rates"][arithmetic] for pair in pairs]
            theirs = [pair["torch"][at]["f32" if arithmetic == "f32" else "bf16"] for pair in pairs]
            shares = [rate["share"] for rate in ours if rate["share"] is not None]
            rows.append({
                "product": f"{product['name']}, {product['kind']}",
                "shape": f"{product['positions']} × {product['inputs']} × {product['outputs']}",
                "arithmetic": arithmetic,
                "alambic": statistics.median(rate["gflops"] for rate in ours),
                "torch": statistics.median(theirs),
                "ratios": sorted(rate["gflops"] / other for rate, other in zip(ours, theirs)),
                "share": statistics.median(shares) if shares else None,
            })
    return rows


def main():
    args = parser.parse_args()
    if args.only:
        return print(json.dumps(run_torch(args)))
    pairs = []
    for number in range(args.pairs + 1):
        alambic = measure_alambic(args)
        pair = {"alambic": alambic, "torch": measure_torch(args, alambic["products"])}
        print(f"pair {number} of {args.pairs}" if number else "pair that is not counted", file=sys.stderr)
        if number:
            pairs.append(pair)
    print(f"{args.threads} threads, medians of {args.pairs} pairs, GFLOP/s; the instruction alone, on one thread and on all: {json.dumps(pairs[-1]['alambic']['peak'])}")
    for row in compared(pairs):
        ratios = row["ratios"]
        share = "" if row["share"] is None else f"  {row['share']:4.0%} of the instruction"
        print(f"  {row['product']:30} {row['shape']:20} {row['arithmetic']:15} alambic {row['alambic']:7.0f}  torch {row['torch']:7.0f}  "
              f"alambic / torch {statistics.median(ratios):5.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}){share}")
    if args.json:
        args.json.write_text(json.dumps(pairs, indent=1))


if __name__ == "__main__":
    main()
