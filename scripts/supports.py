#!/usr/bin/env python3
"""What a cached support is worth: one student, the same rows, steps and seeds, taught from supports of many kinds.

    scripts/fetch_smollm2.sh && cargo build --release
    python3 scripts/supports.py [--seeds 1 2 3] [--tokens 163840] [--steps 320]

Teacher: SmolLM2-135M. Student: a small Llama with the same vocabulary. Arms: cross-entropy alone; the whole vocabulary (`dense`);
`top_k` 8, 16 and 64 with the rest as one bucket and renormalised; 13, 33 and 50 samples, systematic and independent. Every arm but the first
is trained on the KL to the teacher alone. Told for each: bits per byte, KL to the teacher's 64 likeliest and the rest, expected calibration
error on held-out text, bytes a position of the cache, and how much of the gap between cross-entropy alone and `dense` is closed.

What was done is not done again: a run that was stopped goes on.
"""
import argparse
import json
import pathlib
import statistics
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
parser.add_argument("--tokens", type=int, default=163840, help="training tokens captured; `dense` takes about 40 kB for each")
parser.add_argument("--steps", type=int, default=320)
parser.add_argument("--learning-rate", default="1.5e-3")
parser.add_argument("--arms", nargs="+", help="only these")
args = parser.parse_args()

VOCABULARY = 49152
TEACHER = ROOT / "checkpoints/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf"
STUDENT = ("{architecture: {num_hidden_layers: 2, hidden_size: 96, num_attention_heads: 4, num_key_value_heads: 2, "
           "intermediate_size: 256}}")
KL, LABELS = "{forward_kl: 1.0}", "{cross_entropy: 1.0}"


def top_k(k):
    return f"{{top_k: {k}}}"


def samples(n, sampling):
    return f"{{samples: {n}}}, sampling: {sampling}"


ARMS = {"cross-entropy": (top_k(64), LABELS, "bucket"), "dense": (top_k(VOCABULARY), KL, "bucket")}
for k in (8, 16, 64):
    ARMS[f"top {k}, bucket"] = (top_k(k), KL, "bucket")
    ARMS[f"top {k}, renormalised"] = (top_k(k), KL, "renormalize")
for n in (13, 33, 50):
    for sampling in ("systematic", "independent"):
        ARMS[f"{n} samples, {sampling}"] = (samples(n, sampling), KL, None)

WORK = ROOT / "checkpoints/supports"
WORK.mkdir(parents=True, exist_ok=True)
text = sorted((ROOT / "datasets/austen/validation").glob("*.txt"))[0].read_text(encoding="utf-8")
(WORK / "watched.txt").write_text(text[:4_000], encoding="utf-8")  # the run's own validation, about 1,000 tokens
held_out = WORK / "held-out.txt"
held_out.write_text(text[4_000:40_000], encoding="utf-8")  # about 8,700 tokens


def alambic(*arguments):
    command = [ROOT / "target/release/alambic", *arguments, "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def recipe_of(name, seed, support, losses, tail):
    slug = "".join(c if c.isalnum() else "-" for c in name)
    distill = (f"{{steps: {args.steps}, tokens_per_step: 512, learning_rate: {args.learning_rate}, "
               f"losses: {losses}{f', tail: {tail}' if tail == 'renormalize' else ''}}}")
    path = WORK / f"{slug}-{seed}.yaml"
    path.write_text(f"""\
name: supports-{slug}-{seed}
seed: {seed}
output: ..
data: {{ train: [../../datasets/austen/train], validation: [watched.txt], sequence_length: 256 }}
teacher: {{ checkpoint: {json.dumps(str(TEACHER))}, batch_size: 4 }}
cache: {{ tokens: {args.tokens}, support: {support}, rows_per_shard: 50 }}
student: {STUDENT}
passes: [distill: {distill}]
export: {{ formats: [huggingface], dtype: f32 }}
""")
    return path


def measure(name, seed):
    """Exact figures of the exported student against the teacher itself."""
    recipe = recipe_of(name, seed, *ARMS[name])
    alambic("run", recipe, "--quiet")
    stages = {stage["name"]: pathlib.Path(stage["dir"]) for stage in alambic("plan", recipe)["stages"]}
    stage = stages["02-export"]
    export = stage / "huggingface"
    found = WORK / f"{recipe.stem}-{stage.name}.json"  # the folder's name ends with a hash of all that made it
    if not found.exists():
        figures = alambic("evaluate", export, "--text", held_out, "--teacher", TEACHER, "--quiet")
        found.write_text(json.dumps(figures))
    held = WORK / f"{stages['cache'].name}.json"  # every position is decoded for it: once for all seeds
    if not held.exists():
        held.write_text(json.dumps(alambic("cache", "stat", stages["cache"])["train"]))
    cache = json.loads(held.read_text())
    return json.loads(found.read_text()) | {"bytes": cache["bytes_per_counted"], "ids": cache["mean_num_ids"]}


def spread(values, digits):
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values) if len(values) > 1 else 0:.{digits}f}"


arms = args.arms or list(ARMS)
results = {name: [] for name in arms}
for seed in args.seeds:
    for name in arms:
        results[name].append(measure(name, seed))
        print(f"seed {seed}, {name}:", json.dumps(results[name][-1]), flush=True)

print("| arm | ids | bytes a position | loss (nats) | bits per byte | KL to the teacher (nats) | calibration error (%) | gap closed (%) |\n"
      "|---|---|---|---|---|---|---|---|")
for name in arms:
    rows = results[name]
    closed = "-"
    if {"cross-entropy", "dense"} <= results.keys():
        shares = [100 * (ce["loss_nats"] - row["loss_nats"]) / (ce["loss_nats"] - full["loss_nats"])
                  for row, ce, full in zip(rows, results["cross-entropy"], results["dense"])]
        closed = spread(shares, 0)
    figures = [spread([row[key] * scale for row in rows], digits)
               for key, scale, digits in (("loss_nats", 1, 3), ("bits_per_byte", 1, 3), ("kl_nats", 1, 3), ("calibration_error", 100, 2))]
    sizes = [f"{statistics.mean(row[key] for row in rows):,.1f}" for key in ("ids", "bytes")]
    print(f"| {name} | {' | '.join(sizes + figures)} | {closed} |")
