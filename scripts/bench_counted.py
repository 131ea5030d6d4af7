#!/usr/bin/env python3
"""Rows a second of a capture of conversations, and bytes of the cache, of two builds of alambic in turn.

    cargo build --release
    python3 scripts/bench_counted.py --checkpoint FOLDER --before OTHER/alambic       # a Hugging Face folder with a chat template

Conversations are made of the committed text: turns of a user and of an assistant, whose share of the text is --assistant. They fill
--fill of a row of --sequence-length, and half as much at least, evenly spread. Each build captures the same file into a fresh
folder, --repeats times after one run each that does not count. The seconds are those that the cache stage records: open the
weights, run them, select, compress and write the cache. Ratios are of runs next to each other, so that other work on the machine
falls on both; the processor time of the whole command feels it less. Bytes are those of the shards of the training rows.
"""
import argparse
import json
import os
import pathlib
import random
import resource
import statistics
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--checkpoint", type=pathlib.Path, required=True, help="Hugging Face folder with a chat template")
parser.add_argument("--before", type=pathlib.Path, required=True, help="the build to compare with")
parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/alambic")
parser.add_argument("--rows", type=int, default=64)
parser.add_argument("--sequence-length", type=int, default=256)
parser.add_argument("--assistant", type=float, default=0.34, help="share of the assistant's words")
parser.add_argument("--fill", type=float, default=0.9, help="words of the longest conversation, over positions of a row")
parser.add_argument("--least", type=float, default=0.5, help="words of the shortest, over those of the longest")
parser.add_argument("--batch", type=int, default=8, help="rows in one forward pass")
parser.add_argument("--support", default="{ top_k: 64 }", help="as in a recipe")
parser.add_argument("--repeats", type=int, default=5)
parser.add_argument("--threads", type=int, default=os.cpu_count())
args = parser.parse_args()


def conversations(count, seed):
    """Lines of `messages`: words of the text, in turns of about forty."""
    text = "".join(path.read_text() for path in sorted((ROOT / "datasets/austen/train").glob("*.txt")))
    words, draws, at = text.split(), random.Random(seed), seed * 1000
    lines = []
    for _ in range(count):
        # A word is about 1.3 tokens, and the template takes about ten a turn.
        total = args.fill * args.sequence_length / 1.6 * draws.uniform(args.least, 1.0)
        pairs = max(1, round(total / 60))
        messages = []
        for _ in range(pairs):
            for role, share in [("user", 1 - args.assistant), ("assistant", args.assistant)]:
                size = max(1, round(total / pairs * share * draws.uniform(0.8, 1.2)))
                messages.append({"role": role, "content": " ".join(words[at:at + size])})
                at = (at + size) % (len(words) - 1000)
        lines.append(json.dumps({"messages": messages}))
    return "\n".join(lines) + "\n"


def capture(binary, folder):
    recipe = folder / "bench.yaml"
    recipe.write_text(f"""\
name: bench
output: runs
data: {{ train: [train.jsonl], validation: [validation.jsonl], sequence_length: {args.sequence_length} }}
teacher: {{ checkpoint: {json.dumps(str(args.checkpoint.resolve()))}, batch_size: {args.batch} }}
cache: {{ support: {args.support}, temperatures: [1.0] }}
student: {{ architecture: {{ num_hidden_layers: 1, hidden_size: 8, num_attention_heads: 1, intermediate_size: 8 }} }}
passes: [distill: {{ steps: 1, tokens_per_step: {args.sequence_length} }}]
export: {{ formats: [] }}
""")
    environment = os.environ | {"RAYON_NUM_THREADS": str(args.threads)}
    run = lambda *command: json.loads(subprocess.run([binary, *command, "--json"], check=True, stdout=subprocess.PIPE, env=environment).stdout)
    used = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    before = used()
    cache = pathlib.Path(run("cache", "build", recipe, "--quiet")["cache"])
    processor_secs = used() - before
    secs = json.loads((cache / "artifact.json").read_text())["secs"]
    stat = run("cache", "stat", cache / "train")
    validation = run("cache", "stat", cache / "validation")
    rows = stat["num_rows"] + validation["num_rows"]
    return {"rows_per_sec": rows / secs, "processor_secs": processor_secs, "stat": stat}


runs = {"before": [], "now": []}
with tempfile.TemporaryDirectory() as folder:
    texts = {"train.jsonl": conversations(args.rows, 1), "validation.jsonl": conversations(args.batch, 2)}
    for repeat in range(args.repeats + 1):
        for name, binary in [("before", args.before), ("now", args.binary)]:
            place = pathlib.Path(folder) / f"{name}-{repeat}"
            place.mkdir()
            for file, text in texts.items():
                (place / file).write_text(text)
            found = capture(binary.resolve(), place)
            if repeat:
                runs[name].append(found)
            print(f"{name}: {found['rows_per_sec']:.2f} rows/s, {found['processor_secs']:.1f} s of processor time" + ("" if repeat else " (not counted)"))

for name, found in runs.items():
    stat = found[0]["stat"]
    counted, total = stat["num_counted"], stat["num_positions"]
    stored = counted if name == "now" else total
    columns = {column: round(size / stored, 2) for column, size in stat["column_bytes"].items()}
    print(f"{name}: median {statistics.median(run['rows_per_sec'] for run in found):.2f} rows/s; {counted} of {total} positions count; "
          f"{stat['total_bytes']} bytes, {stat['total_bytes'] / stored:.2f} a stored position: {columns}")
pairs = list(zip(runs["before"], runs["now"]))
for what, ratios in [
    ("rows a second, now / before", [now["rows_per_sec"] / before["rows_per_sec"] for before, now in pairs]),
    ("processor time, before / now", [before["processor_secs"] / now["processor_secs"] for before, now in pairs]),
]:
    print(f"{what}: median {statistics.median(ratios):.2f}, pair by pair {min(ratios):.2f} to {max(ratios):.2f}")
