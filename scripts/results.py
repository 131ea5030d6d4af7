#!/usr/bin/env python3
"""What compression costs SmolLM2-135M: the figures of docs/results.md.

    scripts/fetch_smollm2.sh && scripts/fetch_rust_book.sh && cargo build --release
    python3 scripts/results.py [--groups prune depth ...] [--texts austen rust-book] [--seeds 1 2 3]

Every arm is a recipe that begins with the whole model. Its export is measured on a text that no pass has seen; differences between arms are taken token
by token, so their standard errors are small. Arms of a group share a folder, so passes that begin alike run once; it is removed at the end (an arm takes a
gigabyte). Figures stay in checkpoints/results/, and what is there is not measured again.
"""
import argparse
import json
import math
import os
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODEL = ROOT / "checkpoints/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf"
WORK = ROOT / "checkpoints/results"
HELD_OUT_CHARACTERS = 60_000  # about 14,000 tokens

# Text to calibrate and train on, and to measure on.
TEXTS = {
    "austen": ("austen/train", "austen/validation"),
    "rust-book": ("rust-book/train", "rust-book/validation"),
}

CALIBRATION = "calibration_tokens: 32k"
BY_INPUTS = ", calibration_tokens: 16k"
SCRATCH = ("{architecture: {num_hidden_layers: 24, hidden_size: 576, num_attention_heads: 9, num_key_value_heads: 3, "
           "intermediate_size: 1536}}")
WHOLE = f"{{checkpoint: {json.dumps(str(MODEL))}}}"


def prune(keys):
    return [f"prune: {{{keys}}}"]


def shrink(keys, calibration=CALIBRATION):
    return [f"shrink: {{{keys}, {calibration}}}"]


def grid(bits):
    """A width and what scales it: `4` is one scale per row, symmetric; `3` groups of 64 with zeros."""
    return {4: "bits: 4, group_size: channel", 3: "bits: 3, group_size: 64, symmetric: false"}[bits]


def quantize(method, bits, keys=""):
    return [f"quantize: {{method: {method}, {grid(bits)}{keys}}}"]


def training(steps, rate, losses="forward_kl: 1.0"):
    return f"steps: {steps}, tokens_per_step: 512, micro_batch: 2, learning_rate: {rate}, losses: {{{losses}}}"


# Group -> arm -> student and passes; arms whose name ends with `*` are run with every seed.
GROUPS = {
    "prune": {
        "magnitude 50 %": (WHOLE, prune("method: magnitude, sparsity: 0.5, within: matrix")),
        "Wanda 50 %": (WHOLE, prune(f"method: wanda, sparsity: 0.5, {CALIBRATION}")),
        "SparseGPT 50 %": (WHOLE, prune(f"method: sparsegpt, sparsity: 0.5, {CALIBRATION}")),
        "magnitude 2:4": (WHOLE, prune("method: magnitude, pattern: 2:4")),
        "Wanda 2:4": (WHOLE, prune(f"method: wanda, pattern: 2:4, {CALIBRATION}")),
        "SparseGPT 2:4": (WHOLE, prune(f"method: sparsegpt, pattern: 2:4, {CALIBRATION}")),
    },
    "depth": {
        "30 → 26, evenly spaced (6, 13, 20, 27 out)": (
            f"{{from_teacher: {{layers: {[layer for layer in range(30) if layer not in (6, 13, 20, 27)]}}}}}", prune("method: magnitude, sparsity: 0")),
        "30 → 26, block influence": (WHOLE, shrink("num_hidden_layers: 26")),
        "30 → 26, loss without the layer": (WHOLE, shrink("num_hidden_layers: 26, layers_by: loss", "calibration_tokens: 4k")),
    },
    "heal": {
        "30 → 24, block influence": (WHOLE, shrink("num_hidden_layers: 24")),
        "30 → 24, distilled*": (WHOLE, shrink("num_hidden_layers: 24") + [f"distill: {{{training(50, '2e-4')}}}"]),
        "24 layers from scratch, distilled*": (SCRATCH, [f"distill: {{{training(50, '1e-3')}}}"]),
    },
    "round": {
        "int4 per channel, round-to-nearest": (WHOLE, quantize("round-to-nearest", 4)),
        "int4 per channel, GPTQ": (WHOLE, quantize("gptq", 4, BY_INPUTS)),
        "int4 per channel, GPTQ, damping 0.1": (WHOLE, quantize("gptq", 4, f"{BY_INPUTS}, damping: 0.1")),
        "int4 per channel, GPTQ, clipped, damping 0.1": (WHOLE, quantize("gptq", 4, f"{BY_INPUTS}, clip: true, damping: 0.1")),
        "int3 groups of 64, round-to-nearest": (WHOLE, quantize("round-to-nearest", 3)),
        "int3 groups of 64, GPTQ": (WHOLE, quantize("gptq", 3, BY_INPUTS)),
        "int3 groups of 64, AWQ": (WHOLE, quantize("awq", 3, BY_INPUTS)),
        "int3 groups of 64, AWQ then GPTQ": (WHOLE, quantize("awq-gptq", 3, BY_INPUTS)),
        "int3 groups of 64, AWQ then GPTQ, clipped, damping 0.05": (WHOLE, quantize("awq-gptq", 3, f"{BY_INPUTS}, clip: true, damping: 0.05")),
        "int3 groups of 64, AWQ then GPTQ, clipped, damping 0.1": (WHOLE, quantize("awq-gptq", 3, f"{BY_INPUTS}, clip: true, damping: 0.1")),
    },
    "qat": {
        "float, trained*": (WHOLE, [f"distill: {{{training(100, '5e-5')}}}"]),
        "float, trained, then rounded to int4 per channel*": (WHOLE, [f"distill: {{{training(100, '5e-5')}}}"] + quantize("round-to-nearest", 4)),
        "float, trained, then rounded to int3 groups of 64*": (WHOLE, [f"distill: {{{training(100, '5e-5')}}}"] + quantize("round-to-nearest", 3)),
        "QAT, int4 per channel*": (WHOLE, quantize("qat", 4, f", {training(100, '5e-5')}")),
        "QAT, int3 groups of 64*": (WHOLE, quantize("qat", 3, f", {training(100, '5e-5')}")),
    },
}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
parser.add_argument("--texts", nargs="+", choices=TEXTS, default=list(TEXTS))
parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
parser.add_argument("--arms", nargs="+", help="only arms whose name holds one of these")
parser.add_argument("--alambic", type=pathlib.Path, default=ROOT / "target/release/alambic")
args = parser.parse_args()


def alambic(*arguments):
    """What a command prints, the seconds it took, and its peak memory in bytes."""
    since = time.monotonic()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen([args.alambic, *arguments, "--json", "--quiet"], stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        if os.waitstatus_to_exitcode(status) != 0:
            raise SystemExit(f"alambic {' '.join(map(str, arguments))} failed")
        out.seek(0)
        return json.load(out), time.monotonic() - since, usage.ru_maxrss * 1024


def held_out(text):
    path = WORK / f"{text}.txt"
    if not path.exists():
        files = sorted((ROOT / "datasets" / TEXTS[text][1]).glob("*.txt"))
        path.write_text("\n".join(file.read_text(encoding="utf-8") for file in files)[:HELD_OUT_CHARACTERS], encoding="utf-8")
    return path


def evaluate(checkpoint, text, found):
    """Loss of every token of the held-out text."""
    with tempfile.TemporaryDirectory() as folder:
        losses = pathlib.Path(folder) / "losses"
        figures, _, _ = alambic("evaluate", checkpoint, "--text", held_out(text), "--sequence-length", "512", "--losses", losses)
        rows = [json.loads(line)["loss_nats"] for line in losses.read_text().splitlines()]
    found |= {"loss": figures["with_separators"]["loss_nats"], "tokens": [x for row in rows for x in row]}


def run_folder(text, group, seed):
    return f"results-{text}-{group}-{seed}"


def measure(text, group, arm, student, passes, seed):
    slug = "".join(c if c.isalnum() else "-" for c in f"{text}-{arm.rstrip('*')}-{seed}")
    result = WORK / f"{slug}.json"
    if result.exists():
        return json.loads(result.read_text())
    recipe = WORK / f"{slug}.yaml"
    train = ROOT / "datasets" / TEXTS[text][0]
    quantized = any(one.startswith("quantize") for one in passes)
    lines = [
        f"name: {run_folder(text, group, seed)}", f"seed: {seed}", "output: ..",
        f"data: {{ train: [{train}], validation: [{held_out(text)}], sequence_length: 512, validation_tokens: 512 }}",
        f"teacher: {{ checkpoint: {json.dumps(str(MODEL))}, batch_size: 4 }}",
        "cache: { tokens: 51200, support: { top_k: 64 } }",  # captured by arms that train; the others calibrate on the same rows
        f"student: {student}",
        f"passes: [{', '.join(passes)}]",
        f"export: {{ formats: [{'compressed-tensors' if quantized else 'huggingface'}], dtype: f32 }}",
    ]
    recipe.write_text("\n".join(lines) + "\n", encoding="utf-8")
    report, secs, memory = alambic("run", recipe)
    stages = {stage["name"]: pathlib.Path(stage["dir"]) for stage in alambic("plan", recipe)[0]["stages"]}
    (export,) = [folder for name, folder in stages.items() if name.endswith("export")]
    (folder,) = [path for path in export.iterdir() if path.is_dir()]
    found = {"secs": secs, "memory": memory, "passes": [[one["pass"], one["secs"]] for one in report["passes"]]}
    evaluate(folder, text, found)
    result.write_text(json.dumps(found))
    shutil.rmtree(export)
    return found


def whole(text):
    result = WORK / f"{text}-whole.json"
    if not result.exists():
        found = {}
        evaluate(MODEL, text, found)
        result.write_text(json.dumps(found))
    return json.loads(result.read_text())


def rise(found, base):
    """Mean rise of the loss against another model, and its standard error over tokens."""
    rises = [one - other for one, other in zip(found["tokens"], base["tokens"], strict=True)]
    return statistics.mean(rises), statistics.stdev(rises) / math.sqrt(len(rises))


WORK.mkdir(parents=True, exist_ok=True)
for text in args.texts:
    base = whole(text)
    print(f"\n{text}, {len(base['tokens']):,} tokens: the whole model has {base['loss']:.4f} nats (perplexity {math.exp(base['loss']):.2f})\n", flush=True)
    print("| arm | loss (nats) | perplexity | more than the whole model | seconds by pass | peak memory |\n|---|---|---|---|---|---|", flush=True)
    for group in args.groups:
        for arm, (student, passes) in GROUPS[group].items():
            if args.arms and not any(word in arm for word in args.arms):
                continue
            runs = [measure(text, group, arm, student, passes, seed) for seed in (args.seeds if arm.endswith("*") else args.seeds[:1])]
            rises = [rise(run, base) for run in runs]
            error = rises[0][1] if len(runs) == 1 else statistics.stdev(value for value, _ in rises)
            loss = statistics.mean(run["loss"] for run in runs)
            secs = ", ".join(f"{secs:.0f}" for name, secs in runs[-1]["passes"] if name != "teacher")
            print(f"| {arm.rstrip('*')} | {loss:.4f} | {math.exp(loss):.2f} | {statistics.mean(value for value, _ in rises):.4f} ± {error:.4f} "
                  f"| {secs} | {max(run['memory'] for run in runs) / 2**20:,.0f} MiB |", flush=True)
        for seed in args.seeds:
            shutil.rmtree(ROOT / "checkpoints" / run_folder(text, group, seed), ignore_errors=True)
