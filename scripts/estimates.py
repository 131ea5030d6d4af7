#!/usr/bin/env python3
"""Estimates of `alambic plan` beside what `alambic run` takes: python3 scripts/estimates.py [--only NAME ...] [--stages]

Runs six recipes of different sizes, from a student of 0.1 M parameters to SmolLM2-135M, in a folder that is deleted afterwards, and
prints a table in Markdown: the time of all stages, and the peak memory of the process. All numbers are f32; about 12 minutes on two cores.

Each recipe runs with an empty file of rates. Then it is planned with the rates that the *other* recipes stored, as on a machine that
has run other recipes before, so that no estimate knows its own run. `--stages` prints the table of each stage, too.

Needs Python 3, Linux, `cargo build --release` and the model of scripts/fetch_smollm2.sh. Times mean something only on an idle machine.
"""
import argparse
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "target/release/alambic"
AUSTEN = ROOT / "checkpoints/austen-teacher"
SMOLLM2 = ROOT / "checkpoints/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf"
TEXT = f"train: [{ROOT}/datasets/austen/train]\n  validation: [{ROOT}/datasets/austen/validation]"


def sizes(layers, hidden, heads, intermediate):
    return (f"{{ architecture: {{ num_hidden_layers: {layers}, hidden_size: {hidden}, num_attention_heads: {heads}, "
            f"num_key_value_heads: {heads // 2}, intermediate_size: {intermediate} }} }}")


# What is run, and the recipe. Steps are few: a step costs the same whatever their number.
RECIPES = {
    "tiny": ("distil, 0.4 M", f"""
data:
  {TEXT}
  sequence_length: 128
  validation_tokens: 8k
teacher: {{ checkpoint: {AUSTEN} }}
cache: {{ tokens: 100k, support: {{ samples: 50 }} }}
student: {sizes(2, 64, 2, 176)}
passes:
  - distill: {{ steps: 300, tokens_per_step: 2048, learning_rate: 3e-3, losses: {{ forward_kl: 0.9, cross_entropy: 0.1 }} }}
export: {{ formats: [huggingface], dtype: f32 }}
"""),
    "chain": ("distil, prune, distil, QAT, 1.3 M", f"""
data:
  {TEXT}
  sequence_length: 256
  validation_tokens: 16k
teacher: {{ checkpoint: {AUSTEN} }}
cache: {{ tokens: 150k, support: {{ top_k: 32 }} }}
student: {sizes(4, 128, 4, 352)}
passes:
  - distill: {{ steps: 80, tokens_per_step: 4096, learning_rate: 3e-3, evaluate_every: 40, losses: {{ forward_kl: 0.9, cross_entropy: 0.1 }} }}
  - prune: {{ method: wanda, sparsity: 0.5 }}
  - distill: {{ steps: 30, tokens_per_step: 4096, learning_rate: 1e-3 }}
  - quantize: {{ method: qat, bits: 4, group_size: 32, steps: 30, tokens_per_step: 4096, learning_rate: 5e-4 }}
export: {{ formats: [huggingface, compressed-tensors] }}
"""),
    "gptq-small": ("SparseGPT, GPTQ, 5.5 M", f"""
data:
  {TEXT}
  sequence_length: 256
  validation_tokens: 32k
teacher: {{ checkpoint: {AUSTEN} }}
cache: {{ tokens: 32k, support: {{ top_k: 32 }} }}
student: {{ checkpoint: {AUSTEN} }}
passes:
  - prune: {{ method: sparsegpt, sparsity: 0.5, calibration_tokens: 32k }}
  - quantize: {{ method: gptq, bits: 4, group_size: 64, calibration_tokens: 32k }}
export: {{ formats: [compressed-tensors, gguf] }}
"""),
    "text": ("cross-entropy alone, 27 M", f"""
data:
  {TEXT}
  sequence_length: 256
  validation_tokens: 8k
  tokenizer: {{ file: {AUSTEN}/tokenizer.json }}
student: {sizes(8, 512, 8, 1408)}
passes:
  - distill: {{ steps: 12, tokens_per_step: 4096, learning_rate: 1e-3, ema: 0.99, losses: {{ cross_entropy: 1.0 }} }}
export: {{ formats: [huggingface] }}
"""),
    "part": ("10 of 30 layers of SmolLM2, 64 M", f"""
data:
  {TEXT}
  sequence_length: 256
  validation_tokens: 4k
teacher: {{ checkpoint: {SMOLLM2}, batch_size: 4 }}
cache: {{ tokens: 24k, support: {{ samples: 50 }} }}
student: {{ from_teacher: {{ layers: [0, 1, 2, 5, 9, 13, 17, 21, 25, 29] }} }}
passes:
  - distill: {{ steps: 15, tokens_per_step: 2048, learning_rate: 3e-4, losses: {{ forward_kl: 0.9, cross_entropy: 0.1 }} }}
export: {{ formats: [huggingface], dtype: f32 }}
"""),
    "whole": ("GPTQ of SmolLM2, 135 M", f"""
data:
  {TEXT}
  sequence_length: 512
  validation_tokens: 4k
teacher: {{ checkpoint: {SMOLLM2} }}
cache: {{ tokens: 16k, support: {{ top_k: 64 }} }}
student: {{ checkpoint: {SMOLLM2} }}
passes:
  - quantize: {{ method: gptq, bits: 4, group_size: 64, calibration_tokens: 8k }}
export: {{ formats: [compressed-tensors] }}
"""),
}


def environment(rates):
    return dict(os.environ, XDG_CACHE_HOME=str(rates))


def planned(recipe, rates, output):
    """The plan of a recipe as if nothing of it was done."""
    command = [PROGRAM, "plan", recipe, "--json", "--set", f"output={output}"]
    done = subprocess.run(command, env=environment(rates), check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def status(pid, name):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0


def stage_of(line, stages, stage):
    """Stage that a line of progress belongs to."""
    label = line.split(":")[0].split(",")[0]
    if line.startswith("data: "):
        return "cache" if "cache" in stages else "passes"
    if ", validation: " in line and " took " in line and line.startswith(stages[-2]):
        return "export"
    return label if label in stages else stage


def run(recipe, rates, stages):
    """Runs a recipe; peak memory of the process and of each stage, in bytes, and seconds of processor time."""
    process = subprocess.Popen([PROGRAM, "run", recipe, "--json"], env=environment(rates), stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True)
    peaks, stage, lines = {}, "data", []
    for line in process.stderr:
        lines.append(line)
        try:
            peaks[stage] = max(peaks.get(stage, 0), status(process.pid, "VmHWM:"))
            new = stage_of(line, stages, stage)
            if new != stage:
                pathlib.Path(f"/proc/{process.pid}/clear_refs").write_text("5")
            stage = new
        except OSError:
            pass
    _, code, usage = os.wait4(process.pid, 0)
    if code != 0:
        sys.exit("".join(lines))
    peaks[stage] = max(peaks.get(stage, 0), 1024 * usage.ru_maxrss if len(peaks) == 1 else 0)
    return max(max(peaks.values()), 1024 * usage.ru_maxrss), peaks, usage.ru_utime + usage.ru_stime


def seconds(output):
    """Seconds of each finished stage."""
    return {json.loads(path.read_text())["stage"]: json.loads(path.read_text())["secs"]
            for path in sorted(output.glob("**/artifact.json"))}


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.machine()


def mib(size):
    return f"{size / 2**20:,.0f} MiB"


def merged(folders, target):
    """One file of rates out of those of several folders."""
    files = [path for folder in folders for path in sorted(folder.glob("alambic/rates-*.json"))]
    rates = [json.loads(path.read_text()) for path in files]
    if rates:
        path = target / "alambic" / files[0].name
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(dict(rates[0], measured=[one for file in rates for one in file["measured"]])))
    return target


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(RECIPES), default=list(RECIPES), metavar="NAME",
                        help=f"recipes to run: {', '.join(RECIPES)}")
    parser.add_argument("--stages", action="store_true", help="print a table of the stages of each recipe, too")
    parser.add_argument("--keep", type=pathlib.Path, help="folder for recipes, runs and rates, which is kept")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.keep or pathlib.Path(temporary)).resolve()
        compare(args, folder)


def compare(args, folder):
    ran = {}
    for name in args.only:
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
        recipe = folder / name / "recipe.yaml"
        recipe.write_text(f"name: {name}\nseed: 1\noutput: out{RECIPES[name][1]}")
        stages = [stage["name"] for stage in planned(recipe, folder / name / "rates", folder / name / "none")["stages"]]
        ran[name] = run(recipe, folder / name / "rates", stages)
        print(f"{name}: done", file=sys.stderr)
    version = subprocess.run([PROGRAM, "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    rows = []
    for name in args.only:
        others = [folder / other / "rates" for other in args.only if other != name]
        with tempfile.TemporaryDirectory() as temporary:
            rates = merged(others, pathlib.Path(temporary))
            plan = planned(folder / name / "recipe.yaml", rates, folder / name / "none")
        peak, peaks, cpu_secs = ran[name]
        secs = seconds(folder / name / "out")
        took, estimated = sum(secs.values()), plan["secs_to_do"]
        memory = plan["peak_memory_bytes"]
        rows.append(f"| {name}: {RECIPES[name][0]} | {estimated:.0f} s | {took:.0f} s | {estimated / took:.2f} | "
                    f"{mib(memory)} | {mib(peak)} | {memory / peak:.2f} |")
        if args.stages:
            print(f"\n{name} (processor time / cores: {cpu_secs / os.cpu_count():.1f} s)\n")
            print("| stage | time planned | took | ratio | memory planned | peak | ratio |\n|---|---|---|---|---|---|---|")
            for stage in plan["stages"]:
                took = secs.get(stage["name"], 0.0)
                peak = peaks.get(stage["name"], 0)
                print(f"| {stage['name']} | {stage['secs']:.1f} s | {took:.1f} s | {stage['secs'] / max(took, 1e-9):.2f} | "
                      f"{mib(stage['memory_bytes'])} | {mib(peak)} | {stage['memory_bytes'] / max(peak, 1):.2f} |")
    print(f"\n{version}, {processor()}, {os.cpu_count()} cores\n")
    print("| recipe | time planned | took | ratio | memory planned | peak | ratio |\n|---|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
