#!/usr/bin/env python3
"""Memory and speed of the data stage on generated corpora of any size.

    cargo build --release
    python3 scripts/measure_corpora.py --megabytes 100 1000 4000

Makes a corpus (texts as JSON lines, one long `.txt` file, or conversations), runs `alambic data build` on it, and reads the
memory of the process a hundred times a second: `RssAnon`, which is its own, and `RssFile`, pages of mapped files, which the
system takes back when it needs them. Where the cgroup v1 controller can be used (as root), the process also runs under a
limit of 600 MiB, in which the pages of files count. One JSON object for each corpus goes to stdout.
"""

import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
CGROUP = pathlib.Path("/sys/fs/cgroup/memory/alambic-corpora")
LIMIT = 600 << 20

RECIPE = """
name: corpora
output: .
data:
  train: [{corpus}]
  validation: [{validation}]
  sequence_length: {length}
teacher: {{ checkpoint: {teacher} }}
student: {{ from_teacher: {{ layers: [0] }} }}
passes:
  - distill: {{ steps: 1 }}
"""


def words():
    """Words of the committed text, in their frequencies."""
    text = (ROOT / "datasets/austen/validation").glob("*.txt")
    return " ".join(path.read_text(encoding="utf-8") for path in text).split()


def texts(rng, pool):
    """Texts of 20 to 2,000 words without end, each from another place."""
    while True:
        start = rng.randrange(len(pool) - 2000)
        yield " ".join(pool[start : start + rng.randrange(20, 2000)])


def write(path, kind, num_bytes, seed):
    rng = random.Random(seed)
    source = texts(rng, words())
    written = 0
    with open(path, "w", encoding="utf-8") as out:
        while written < num_bytes:
            if kind == "long":
                line = next(source) + "\n\n"
            elif kind == "prose":
                line = json.dumps({"text": next(source)}) + "\n"
            else:
                turns = [("user", "assistant")[turn % 2] for turn in range(2 * rng.randrange(1, 4))]
                messages = [{"role": role, "content": next(source)[: rng.randrange(40, 400)]} for role in turns]
                line = json.dumps({"messages": messages}) + "\n"
            written += out.write(line)


def limited():
    """Enters the group with the limit, in the child."""
    (CGROUP / "cgroup.procs").write_text(str(os.getpid()))


def can_limit():
    try:
        CGROUP.mkdir(exist_ok=True)
        (CGROUP / "memory.limit_in_bytes").write_text(str(LIMIT))
        return True
    except OSError:
        return False


def measured(command, is_limited):
    """Runs a command; its status, seconds, and peaks of its memory in MiB."""
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=limited if is_limited else None)
    peaks = {"RssAnon": 0, "RssFile": 0, "VmHWM": 0}
    while process.poll() is None:
        try:
            status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        for line in status.splitlines():
            name, _, value = line.partition(":")
            if name in peaks:
                peaks[name] = max(peaks[name], int(value.split()[0]) >> 10)
        time.sleep(0.01)
    out = process.communicate()[0]
    return process.returncode, time.monotonic() - start, peaks, out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[100])
    parser.add_argument("--kind", choices=["prose", "long", "chat"], nargs="+", default=["prose", "long", "chat"])
    parser.add_argument("--alambic", default=str(ROOT / "target/release/alambic"))
    parser.add_argument("--dir", default=None, help="folder with room for twice the corpus")
    parser.add_argument("--sequence-length", type=int, default=256)
    args = parser.parse_args()
    is_limited = can_limit()
    ok = True
    for megabytes in args.megabytes:
        for kind in args.kind:
            with tempfile.TemporaryDirectory(dir=args.dir) as folder:
                name = "corpus.txt" if kind == "long" else "corpus.jsonl"
                corpus = pathlib.Path(folder) / name
                write(corpus, kind, megabytes * 1_000_000, seed=megabytes)
                is_chat = kind == "chat"
                teacher = "tests/golden/hf-llama-256" if is_chat else "checkpoints/austen-teacher"
                validation = "datasets/chat/validation.jsonl" if is_chat else "datasets/austen/validation"
                recipe = pathlib.Path(folder) / "corpora.yaml"
                recipe.write_text(
                    RECIPE.format(
                        corpus=corpus,
                        validation=ROOT / validation,
                        length=args.sequence_length,
                        teacher=ROOT / teacher,
                    )
                )
                command = [args.alambic, "data", "build", str(recipe), "--json", "--quiet"]
                status, secs, peaks, out = measured(command, is_limited)
                ok &= status == 0 and peaks["RssAnon"] <= 600
                rows = json.loads(out)["rows"][0] if status == 0 else None
                found = {
                    "kind": kind,
                    "megabytes": megabytes,
                    "status": status,
                    "secs": round(secs, 1),
                    "megabytes_per_sec": round(megabytes / secs, 1),
                    "cgroup_limit_mib": LIMIT >> 20 if is_limited else None,
                    "peak_mib": peaks,
                    "rows": rows,
                }
                print(json.dumps(found), flush=True)
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
