#!/usr/bin/env python3
"""The data stage beside the datasets library: python3 scripts/bench_data.py [--pairs 3] [--scale 1.0]

A seeded generator writes 100 MB of prose and 50,000 conversations into a folder that is deleted afterwards. Words have the
frequencies of the committed novels, with invented words, numbers, other scripts, lists and code among them. Documents are
log-normal around 1,500 bytes; a conversation has one to eight turns (two on average), a question around 120 bytes and an answer around 500,
and in three of ten a system message: some 2,800 bytes. `--scale` makes less of both.

Each pair runs alambic's whole data stage (read, render, tokenise, mask, pack, store), then `datasets.map(batched=True,
num_proc=2)` with transformers' tokenizer and template, then `encode_batch_fast` of alambic's own tokenizers crate on the same
texts. A conversation keeps 1,025 tokens in both. transformers gives a mask only where a template has generation marks, so
conversations are measured twice: with such a template (both make masks), and with the model's own (only alambic makes one).
Starting Python and importing is not counted for datasets, loading the file is.

Prints versions, processor, every pair, and the median of the ratios of rows a second.
Needs Linux, PyPI, Rust and the model of scripts/fetch_smollm2.sh. Times mean something only on an idle machine.
"""
import argparse
import collections
import json
import os
import pathlib
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
import venv

ROOT = pathlib.Path(__file__).resolve().parent.parent
PINNED = ["datasets==5.2.0", "transformers==5.24.0", "tokenizers==0.23.2", "jinja2==3.1.6"]  # tokenizers as in Cargo.lock
LENGTH = 1024
SMOLLM2 = ROOT / "checkpoints/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf"
AUSTEN = ROOT / "checkpoints/austen-teacher"
MARKED = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}"
          "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}"
          "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
SYLLABLES = "ba be bi bo da de di do fa fe ga ka ki ko la le li lo ma me mi mo na ne ni no pa pe po ra re ri ro sa se si so ta te ti to va vi za zu".split()
FOREIGN = "Zürich naïve café São façade Ångström 東京 こんにちは данные модель λόγος — “quoted” … € 🙂 👩‍💻 ½".split()
CODE = ["def area(width, height):\n    return width * height\n", "for (int i = 0; i < 10; i++) {\n\tsum += values[i];\n}\n",
        "SELECT name, COUNT(*) FROM orders GROUP BY name;\n", "x = [1, 2, 3]\nprint(x[-1] == 3)\n"]

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--pairs", type=int, default=3)
parser.add_argument("--scale", type=float, default=1.0)
parser.add_argument("--map", nargs=3, metavar=("KIND", "FOLDER", "FILE"), help=argparse.SUPPRESS)


class Writer:
    """Prose and conversations out of a seed."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        text = "\n".join(file.read_text() for file in sorted((ROOT / "datasets/austen/train").glob("*.txt")))
        counts = sorted(collections.Counter(re.findall(r"[A-Za-z]+(?:'[a-z]+)?", text)).items())
        self.words = [word for word, _ in counts]
        self.sums, total = [], 0
        for _, count in counts:
            total += count
            self.sums.append(total)

    def sentence(self):
        draw = self.random
        words = draw.choices(self.words, cum_weights=self.sums, k=draw.randint(5, 30))
        for at in range(len(words)):
            kind = draw.random()
            if kind < 0.04:
                words[at] = "".join(draw.choices(SYLLABLES, k=draw.randint(2, 5)))
            elif kind < 0.055:
                words[at] = str(draw.randint(0, 10 ** draw.randint(1, 6)))
            elif kind < 0.065:
                words[at] = draw.choice(FOREIGN)
            elif kind < 0.13:
                words[at] += draw.choice(",,,,;:")
        words[0] = words[0].capitalize()
        return " ".join(words) + draw.choice("....?!")

    def text(self, median):
        draw = self.random
        wanted, length, parts = median * draw.lognormvariate(0, 0.9), 0, []
        while length < wanted:
            kind = draw.random()
            if kind < 0.04:
                part = "```\n" + draw.choice(CODE) + "```"
            elif kind < 0.12:
                part = "\n".join(f"{number}. {self.sentence()}" for number in range(1, draw.randint(3, 6)))
            else:
                part = " ".join(self.sentence() for _ in range(draw.randint(1, 6)))
            parts.append(part)
            length += len(part) + 2
        return "\n\n".join(parts)

    def conversation(self):
        draw = self.random
        messages = [{"role": "system", "content": self.sentence()}] if draw.random() < 0.3 else []
        for _ in range(min(8, 1 + int(draw.expovariate(0.7)))):
            messages += [{"role": "user", "content": self.text(120)}, {"role": "assistant", "content": self.text(500)}]
        return messages


def generate(folder, scale):
    """Writes both files; returns their paths and numbers of rows."""
    writer, num_bytes, num_documents = Writer(1), 0, 0
    with open(folder / "prose.jsonl", "w") as file:
        while num_bytes < 1e8 * scale:
            text = writer.text(1500)
            num_bytes += len(text.encode())
            num_documents += 1
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    num_conversations = int(50_000 * scale)
    with open(folder / "chat.jsonl", "w") as file:
        for _ in range(num_conversations):
            file.write(json.dumps({"messages": writer.conversation()}, ensure_ascii=False) + "\n")
    return {"prose": (folder / "prose.jsonl", num_documents), "chat": (folder / "chat.jsonl", num_conversations)}


def mapped(kind, folder, file):
    """Seconds of the datasets library; runs in the environment with it."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")

    def encode(batch):
        texts = tokenizer(batch["text"], add_special_tokens=False, return_attention_mask=False)
        return {"input_ids": [ids + [end] for ids in texts["input_ids"]]}

    def pack(batch):
        stream = [token for ids in batch["input_ids"] for token in ids]
        return {"input_ids": [stream[at:at + LENGTH] for at in range(0, len(stream), LENGTH)]}

    def chat(batch):
        return dict(tokenizer.apply_chat_template(batch["messages"], return_dict=True, truncation=True, max_length=LENGTH + 1,
                                                  return_assistant_tokens_mask="generation" in tokenizer.chat_template))

    with tempfile.TemporaryDirectory() as cache:
        start = time.perf_counter()
        rows = datasets.load_dataset("json", data_files=file, split="train", cache_dir=cache)
        settings = {"batched": True, "num_proc": 2, "remove_columns": rows.column_names}
        if kind == "prose":
            rows.map(encode, **settings).map(pack, batched=True, num_proc=2)
        else:
            rows.map(chat, **settings)
        print(json.dumps({"secs": time.perf_counter() - start}))


def output(command, **settings):
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, **settings)
    if done.returncode != 0:
        sys.exit(f"{command} ended with exit code {done.returncode}")
    return done.stdout


def tokenizer_folders(folder):
    """Folders with the tokenizers that are compared, and what of the data each is for."""
    subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=ROOT, check=True)
    own = folder / "smollm2"
    output([ROOT / "target/release/alambic", "export", SMOLLM2, "--format", "huggingface", "--out", own, "--quiet"])
    marked = folder / "smollm2-marked"
    marked.mkdir()
    (marked / "tokenizer.json").write_bytes((own / "tokenizer.json").read_bytes())
    config = json.loads((own / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (marked / "tokenizer_config.json").write_text(json.dumps(config))
    (marked / "chat_template.jinja").write_text(MARKED)
    return [("conversations, marked template", "chat", marked), ("conversations, SmolLM2's template", "chat", own),
            ("prose, SmolLM2", "prose", own), ("prose, austen-teacher", "prose", AUSTEN)]


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def main():
    arguments = parser.parse_args()
    if arguments.map:
        return mapped(*arguments.map)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        venv.create(folder / "venv", with_pip=True)
        subprocess.run([folder / "venv/bin/pip", "install", "--quiet", "--disable-pip-version-check", *PINNED], check=True)
        files, cases = generate(folder, arguments.scale), tokenizer_folders(folder)
        subprocess.run(["cargo", "bench", "--bench", "rows", "--no-run", "--quiet"], cwd=ROOT, check=True)
        print(f"{', '.join(PINNED)}; Python {platform.python_version()}; {processor()}, {os.cpu_count()} threads; load {os.getloadavg()[0]:.1f}")
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home")}
        for name, kind, tokenizer in cases:
            file, num_rows = files[kind]
            bench = lambda what: json.loads(output(["cargo", "bench", "--quiet", "--bench", "rows", "--", what, tokenizer / "tokenizer.json", file], cwd=ROOT))["secs"]
            to_map, to_library = [], []
            print(f"\n{name}: {num_rows:,} documents, {file.stat().st_size / 1e6:.0f} MB")
            for pair in range(arguments.pairs):
                ours = bench("rows")
                theirs = json.loads(output([folder / "venv/bin/python", __file__, "--map", kind, tokenizer, file], env=environment).splitlines()[-1])["secs"]
                library = bench("library")
                to_map.append(theirs / ours)
                to_library.append(library / ours)
                print(f"  {pair + 1}: alambic {ours:7.2f} s ({num_rows / ours:,.0f} rows a second), datasets {theirs:7.2f} s ({num_rows / theirs:,.0f}), encode_batch_fast {library:7.2f} s", flush=True)
            print(f"  medians: {statistics.median(to_map):.2f} x datasets.map, {statistics.median(to_library):.2f} x encode_batch_fast alone", flush=True)


main()
