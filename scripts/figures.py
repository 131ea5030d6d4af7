#!/usr/bin/env python3
"""Measures what the README claims, with three seeds: python3 scripts/figures.py [--seeds 1 2 3] [--steps-frac 1.0]

Runs recipes/quickstart.yaml in variants and prints one line per seed and claim, then mean and spread:

1. distilled against cross-entropy alone: same student, data, steps and seed; validation bits per byte;
2. Wanda against magnitude at 50 %, before and after recovery;
3. int4, one scale per row: what round-to-nearest costs, and how much of it training with the rounding in the loop recovers.

Stages that variants share run once. Needs nothing but Python 3 and `cargo build --release`.
"""
import argparse
import json
import pathlib
import statistics
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
parser.add_argument("--recipe", default="recipes/quickstart.yaml")
args = parser.parse_args()


def run(seed, *settings):
    """Rows of the report by pass name."""
    command = [ROOT / "target/release/alambic", "run", ROOT / args.recipe, "--quiet", "--json", "--set", f"name=figures-{seed}",
               "--set", f"seed={seed}", "--set", "export.formats=[]"]
    for setting in settings:
        command += ["--set", setting]
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return {row["pass"]: row for row in report["passes"]}


def summary(name, values, unit):
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    print(f"{name}: mean {statistics.mean(values):.4f} {unit}, standard deviation {spread:.4f}, n = {len(values)}")


gains, before, after, shares = [], [], [], []
for seed in args.seeds:
    wanda = run(seed, "quantize.group_size=channel")
    plain = run(seed, "distill.losses={cross_entropy: 1.0}")
    distilled, alone = wanda["01-distill"]["bits_per_byte"], plain["01-distill"]["bits_per_byte"]
    gains.append(alone - distilled)
    print(f"seed {seed}: distilled {distilled:.4f}, cross-entropy alone {alone:.4f} bits per byte")

    magnitude = run(seed, "prune.method=magnitude", "quantize.group_size=channel")
    for name, stage, differences in (("before", "02-prune", before), ("after", "03-distill", after)):
        differences.append(magnitude[stage]["loss_nats"] - wanda[stage]["loss_nats"])
        print(f"seed {seed}: {name} recovery: Wanda {wanda[stage]['loss_nats']:.4f}, magnitude {magnitude[stage]['loss_nats']:.4f} nats")

    rounded = run(seed, "quantize={method: round-to-nearest, bits: 4, group_size: channel}")
    full = wanda["03-distill"]["loss_nats"]
    cost, left = rounded["04-quantize"]["loss_nats"] - full, wanda["04-quantize"]["loss_nats"] - full
    shares.append((cost - left) / cost)
    print(f"seed {seed}: int4 per row: before {full:.4f}, round-to-nearest +{cost:.4f}, trained {left:+.4f} nats: {100 * shares[-1]:.0f} % recovered")

summary("gain of distillation", gains, "bits per byte")
summary("gain of Wanda before recovery", before, "nats")
summary("gain of Wanda after recovery", after, "nats")
summary("share recovered by QAT", shares, "")
