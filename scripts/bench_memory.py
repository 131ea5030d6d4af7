#!/usr/bin/env python3
"""Memory of a training pass, step by step: python3 scripts/bench_memory.py [STEPS]

Trains the quickstart's first pass for so many steps (2,000 by default; 1,024 positions each) with an average, measurements
and training states, and samples the resident memory of the process. Prints median and peak in each tenth of the pass (within a
step, memory rises and falls by a tenth), and by how much the peak of its second half differs from that of the first. Needs a
release build; Linux.
"""
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
SETTINGS = {
    "passes": "[{distill: {steps: %d, tokens_per_step: 1024, micro_batch: 2, learning_rate: 3e-3, ema: 0.999, "
              "evaluate_every: 100, hand_on: best, save_every: 50, log_every: 10}}]" % STEPS,
    "cache.tokens": "100k",
    "data.validation_tokens": "4k",
    "export.formats": "[]",
}


def last_step(metrics):
    try:
        return json.loads(metrics.read_text().splitlines()[-1])["step"]
    except (OSError, IndexError, ValueError):
        return 0


def resident_mib(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return None


with tempfile.TemporaryDirectory() as output:
    settings = dict(SETTINGS, output=output)
    command = [ROOT / "target/release/alambic", "run", ROOT / "recipes/quickstart.yaml"]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    samples = []
    while run.poll() is None:
        time.sleep(0.1)
        for metrics in pathlib.Path(output).glob("quickstart/.partial-01-distill-*/metrics.jsonl"):
            step, memory = last_step(metrics), resident_mib(run.pid)
            if 0 < step < STEPS and memory:
                samples.append((step, memory))
    if run.returncode != 0:
        sys.exit(f"the run failed with exit code {run.returncode}")

peaks = []
for tenth in range(10):
    inside = [memory for step, memory in samples if tenth * STEPS <= 10 * step < (tenth + 1) * STEPS]
    if not inside:
        sys.exit("too few samples: ask for more steps")
    peaks.append(max(inside))
    print(f"steps {tenth * STEPS // 10:>6} to {(tenth + 1) * STEPS // 10:>6}: {statistics.median(inside):7.1f} MiB, at most {peaks[-1]:.1f}")
print(f"peak of the second half against the first: {100 * (max(peaks[5:]) / max(peaks[:5]) - 1):+.1f} %")
