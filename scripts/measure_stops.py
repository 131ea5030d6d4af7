#!/usr/bin/env python3
"""Shows whether a model that was given turns stops at their end: python3 scripts/measure_stops.py [--keep FOLDER]

Runs recipes/chat-teacher.yaml and recipes/chat.yaml, then both again with a template that marks what the assistant says without the
token that ends its turn, so that no loss counts this token. Each of the four models answers the first question of 200 held-out
conversations (datasets/chat/validation.jsonl), with the system's message where there is one: once always with the likeliest token, and once
with draws at the temperature 0.8. Counted is how many answers end with the token that ends a turn within 64 tokens, and how many are the answer of
the file. About 25 minutes on two cores. With --keep, the runs are made in a folder that stays, and are not made again.

Needs Python 3 and `cargo build --release`.
"""
import argparse
import json
import pathlib
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "target/release/alambic"
NUM_PROMPTS = 200
MAX_TOKENS = 64
DRAWS = {"likeliest": ["--temperature", "0"], "drawn": ["--temperature", "0.8", "--top-p", "0.95", "--seed", "17"]}

# The template of the recipes, with marks around what the assistant says and without the token behind it.
MASKED = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{- message['content'] -}}{%- endgeneration -%}
{%- else -%}
{{- message['content'] -}}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def questions():
    lines = (ROOT / "datasets/chat/validation.jsonl").read_text().splitlines()
    found = []
    for line in lines[:NUM_PROMPTS]:
        messages = json.loads(line)["messages"]
        system = messages.pop(0)["content"] if messages[0]["role"] == "system" else None
        found.append((system, messages[0]["content"], messages[1]["content"]))
    return found


def run(recipe, *settings):
    command = [PROGRAM, "run", ROOT / "recipes" / recipe]
    for setting in settings:
        command += ["--set", setting]
    subprocess.run(command, check=True)


def answers(model, how):
    num_stopped = num_right = 0
    for system, question, answer in questions():
        command = [PROGRAM, "generate", model, "--chat", "--prompt", question, "--max-tokens", str(MAX_TOKENS), "--json", "--quiet", *how]
        if system is not None:
            command += ["--system", system]
        said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        num_stopped += said["ended"] == "end_of_text"
        num_right += said["ended"] == "end_of_text" and said["text"].strip() == answer.strip()
    return num_stopped, num_right


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--keep", type=pathlib.Path, help="folder of the runs; by default one that is deleted")
    keep = arguments.parse_args().keep
    with tempfile.TemporaryDirectory() as scratch:
        folder = (keep or pathlib.Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        masked = folder / "masked.jinja"
        masked.write_text(MASKED)
        whole, contrast = folder / "whole", folder / "masked"
        for output, settings in [(whole, []), (contrast, [f"student.chat_template={masked}"])]:
            run("chat-teacher.yaml", f"output={output}", *settings)
            run("chat.yaml", f"output={output}", f"teacher.checkpoint={output}/chat-teacher")
        print(f"{'model':<34} {'':<10} {'stopped':>8} {'right':>8}  of {NUM_PROMPTS}")
        for label, output in [("", whole), (", end of turn masked out", contrast)]:
            for name in ["chat-teacher", "chat"]:
                for draws, how in DRAWS.items():
                    stopped, right = answers(output / name, how)
                    print(f"{name + label:<34} {draws:<10} {stopped:>8} {right:>8}", flush=True)


if __name__ == "__main__":
    main()
