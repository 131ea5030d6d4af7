#!/usr/bin/env python3
"""Measures what docs/results.md claims, with three seeds: python3 scripts/figures.py [--seeds 1 2 3]

1. Distilled against cross-entropy alone: the first pass of recipes/quickstart.yaml, same student, data, steps and seed. The learning rate
   is tuned for cross-entropy alone, on seed 17, and used for both.
2. Wanda against magnitude at 50 %, before and after recovery: in the quickstart's student, and in the teacher itself.
3. int4, one scale per row: what round-to-nearest costs the teacher (recipes/quantize-teacher.yaml), and how much of it training with
   the rounding in the loop recovers.

Stages that variants share run once. Needs Python 3 and `cargo build --release`.
"""
import argparse
import json
import pathlib
import re
import statistics
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
parser.add_argument("--claims", type=int, nargs="+", default=[1, 2, 3])
args = parser.parse_args()


def run(recipe, seed, passes):
    """Rows of the report, by pass name."""
    settings = [f"name=figures-{recipe}-{seed}", f"seed={seed}", "export.formats=[]", f"passes=[{', '.join(passes)}]"]
    command = [ROOT / "target/release/alambic", "run", ROOT / "recipes" / f"{recipe}.yaml", "--quiet", "--json"]
    for setting in settings:
        command += ["--set", setting]
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return {row["pass"]: row for row in report["passes"]}


def passes_of(recipe):
    """The passes of a recipe, one text each."""
    return re.findall(r"^  - (\w+: \{.*\})", (ROOT / "recipes" / f"{recipe}.yaml").read_text(), re.MULTILINE)


def tell(text):
    print(text, flush=True)


def summary(name, values, unit):
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    tell(f"=> {name}: mean {statistics.mean(values):.4f} {unit}, standard deviation {spread:.4f}, n = {len(values)}")


quickstart, (qat,) = passes_of("quickstart"), passes_of("quantize-teacher")
if 1 in args.claims:
    def first_pass(learning_rate, losses):
        settings = re.sub(r"learning_rate: [\w.-]+", f"learning_rate: {learning_rate}", quickstart[0])
        settings = settings.replace("forward_kl: 0.9, cross_entropy: 0.1", losses)
        assert f"learning_rate: {learning_rate}," in settings and losses in settings
        return settings

    def bits(seed, learning_rate, losses):
        return run("quickstart", seed, [first_pass(learning_rate, losses)])["01-distill"]["bits_per_byte"]

    alone, distilled = "cross_entropy: 1.0", "forward_kl: 0.9, cross_entropy: 0.1"
    tuned = {rate: bits(17, rate, alone) for rate in ("1.5e-3", "3e-3", "6e-3")}
    for rate, found in tuned.items():
        tell(f"cross-entropy alone, seed 17, learning rate {rate}: {found:.4f} bits per byte")
    best = min(tuned, key=tuned.get)
    gains = []
    for seed in args.seeds:
        with_teacher, without = bits(seed, best, distilled), bits(seed, best, alone)
        gains.append(without - with_teacher)
        tell(f"seed {seed}, learning rate {best}: distilled {with_teacher:.4f}, cross-entropy alone {without:.4f} bits per byte")
    summary("gain of distillation", gains, "bits per byte")

if 2 in args.claims:
    recover = "distill: {steps: 30, learning_rate: 5e-4, losses: {forward_kl: 1.0}}"
    students = [("quickstart", quickstart[:3], 1), ("quantize-teacher", ["prune: {method: wanda, sparsity: 0.5}", recover], 0)]
    for recipe, wanda_passes, prune_idx in students:
        magnitude_passes = [p.replace("method: wanda", "method: magnitude") for p in wanda_passes]
        gains = {"before": [], "after": []}
        for seed in args.seeds:
            wanda, magnitude = run(recipe, seed, wanda_passes), run(recipe, seed, magnitude_passes)
            for when, number, kind in (("before", prune_idx + 1, "prune"), ("after", prune_idx + 2, "distill")):
                w, m = (rows[f"{number:02}-{kind}"] for rows in (wanda, magnitude))
                gains[when].append(m["loss_nats"] - w["loss_nats"])
                tell(f"seed {seed}, {recipe}, {when} recovery: Wanda {w['loss_nats']:.4f} (KL {w['kl_nats']:.4f}), "
                     f"magnitude {m['loss_nats']:.4f} (KL {m['kl_nats']:.4f}) nats")
        for when, values in gains.items():
            summary(f"gain of Wanda, {recipe}, {when} recovery", values, "nats")

if 3 in args.claims:
    shares = []
    for seed in args.seeds:
        trained = run("quantize-teacher", seed, [qat])
        rounded = run("quantize-teacher", seed, ["quantize: {method: round-to-nearest, bits: 4, group_size: channel}"])
        teacher, trained, rounded = trained["teacher"], trained["01-quantize"], rounded["01-quantize"]
        shares.append(1 - trained["kl_nats"] / rounded["kl_nats"])
        tell(f"seed {seed}: int4 per row: KL to the teacher: rounded {rounded['kl_nats']:.5f}, trained {trained['kl_nats']:.5f} nats; "
             f"loss: teacher {teacher['loss_nats']:.4f}, rounded {rounded['loss_nats']:.4f}, trained {trained['loss_nats']:.4f}")
    summary("share of the KL recovered", shares, "")
