#!/usr/bin/env python3
"""What products in bf16 cost: predictions of a capture, and the end of a training run, against f32.

    scripts/fetch_smollm2.sh && cargo build --release
    python3 -m venv venv && venv/bin/pip install torch transformers
    venv/bin/python scripts/measure_precision.py predictions                  # SmolLM2-135M; --checkpoint for another folder
    python3 scripts/measure_precision.py training --seeds 1 2 3               # recipes/quickstart.yaml, and QAT of SmolLM2-135M

`predictions`: KL (f32 || bf16) over the whole vocabulary, and the mean distance of the labels' log-probabilities, of alambic and of
transformers in bf16, each against itself in f32, on the same rows.

`training`: the validation loss after each pass, in both precisions with the same seeds. Differences are paired by seed.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
SMOLLM2 = ROOT / "checkpoints/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf"
QAT = """\
name: qat
seed: {seed}
data: {{ train: [{root}/datasets/austen/train], validation: [{root}/datasets/austen/validation], sequence_length: 512, validation_tokens: 16k }}
teacher: {{ checkpoint: {model}, batch_size: 4 }}
cache: {{ tokens: 51200, support: {{ top_k: 64 }} }}
student: {{ checkpoint: {model} }}
passes:
  - quantize: {{ method: qat, bits: 4, group_size: channel, steps: 100, tokens_per_step: 512, micro_batch: 2, learning_rate: 5e-5, losses: {{ forward_kl: 1.0 }} }}
export: {{ formats: [] }}
"""
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("what", choices=["predictions", "training"])
parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/alambic")
parser.add_argument("--checkpoint", type=pathlib.Path, help="Hugging Face folder; default: SmolLM2-135M out of its GGUF file")
parser.add_argument("--text", type=pathlib.Path, default=ROOT / "datasets/austen/validation")
parser.add_argument("--rows", type=int, default=32)
parser.add_argument("--sequence-length", type=int, default=256)
parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
parser.add_argument("--recipes", nargs="+", choices=["quickstart", "qat"], default=["quickstart", "qat"])
args = parser.parse_args()


def alambic(*command):
    done = subprocess.run([args.binary, *map(str, command), "--json", "--quiet"], check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def predictions(folder):
    checkpoint = args.checkpoint
    if not checkpoint:
        checkpoint = folder / "model"
        subprocess.run([args.binary, "export", SMOLLM2, "--format", "huggingface", "--out", checkpoint, "--quiet"], check=True, stdout=subprocess.DEVNULL)
    text = folder / "text.txt"
    text.write_text("".join(path.read_text() for path in sorted(args.text.glob("*.txt")))[:args.rows * args.sequence_length * 5])
    losses, found = {}, {}
    for precision in ["f32", "bf16"]:
        file = folder / f"{precision}.jsonl"
        found[precision] = alambic("evaluate", checkpoint, "--teacher", checkpoint, "--precision", precision, "--text", text,
                                   "--sequence-length", args.sequence_length, "--losses", file)
        losses[precision] = lines(file)
    rows = losses["f32"]
    pairs = [(a, b) for one, other in zip(rows, losses["bf16"]) for a, b in zip(one["loss_nats"], other["loss_nats"])]
    ours = {"kl": found["bf16"]["kl_nats"], "log_prob": statistics.mean(abs(a - b) for a, b in pairs)}
    print(f"alambic, {found['bf16']['precision']}: mean KL (f32 || bf16) {ours['kl']:.2e} nats (f32 with itself {found['f32']['kl_nats']:.1e}), "
          f"mean |log-probability of the label| apart {ours['log_prob']:.2e}, {len(pairs)} positions")

    import torch
    import transformers
    models = [transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype).eval() for dtype in [torch.float32, torch.bfloat16]]
    kls, apart = [], []
    with torch.inference_mode():
        for row in rows:
            ids = torch.tensor([row["tokens"]])
            exact, rough = [model(ids[:, :-1]).logits[0].float().log_softmax(-1) for model in models]
            kls.append((exact.exp() * (exact - rough)).sum(-1))
            apart.append((exact - rough).gather(1, ids[0, 1:, None])[:, 0].abs())
    print(f"transformers {transformers.__version__}, torch {torch.__version__}: mean KL (f32 || bf16) {torch.cat(kls).mean():.2e} nats, "
          f"mean |log-probability of the label| apart {torch.cat(apart).mean():.2e}")


def training(folder):
    for recipe in args.recipes:
        ends = {"f32": [], "bf16": []}
        names = []
        for seed in args.seeds:
            for precision, found in ends.items():
                if recipe == "quickstart":
                    source, sets = ROOT / "recipes/quickstart.yaml", [f"seed={seed}"]
                else:
                    source, sets = folder / f"qat-{seed}.yaml", []
                    source.write_text(QAT.format(seed=seed, root=ROOT, model=json.dumps(str(SMOLLM2))))
                sets.append(f"output={folder / f'{recipe}-{seed}-{precision}'}")
                report = alambic("run", source, "--precision", precision, *[word for it in sets for word in ("--set", it)])
                passes = [row for row in report["passes"] if row["pass"] != "teacher"]
                names = [row["pass"] for row in passes]
                found.append([row["loss_nats"] for row in passes])
                print(f"{recipe}, seed {seed}, {precision}: " + ", ".join(f"{name} {loss:.4f}" for name, loss in zip(names, found[-1])), flush=True)
        for idx, name in enumerate(names):
            f32 = [run[idx] for run in ends["f32"]]
            differences = [b[idx] - a[idx] for a, b in zip(ends["f32"], ends["bf16"])]
            print(f"{recipe}, {name}: f32 {statistics.mean(f32):.4f} ± {statistics.stdev(f32) if len(f32) > 1 else 0:.4f}, "
                  f"bf16 - f32 {statistics.mean(differences):+.4f} nats ({min(differences):+.4f} to {max(differences):+.4f})")


os.environ.setdefault("HF_HUB_OFFLINE", "1")
with tempfile.TemporaryDirectory() as temporary:
    {"predictions": predictions, "training": training}[args.what](pathlib.Path(temporary))
