#!/usr/bin/env python3
"""Compares alambic's chat templates with transformers', byte for byte, on every template that the wheels of transformers and trl carry.

    python3 scripts/check_templates.py [--program target/release/alambic] [--templates FOLDER ...] [--show 3]

The versions below are installed into a temporary environment, without torch. Each template renders each conversation with and without a
generation prompt, in both programs. Texts must be equal, and what one refuses the other must refuse. Where a template has
`{% generation %}` blocks that are printed where they stand, the texts of the learnt spans must be those of transformers.
Prints what differs, and the counts; exit code 1 if anything differs. `--templates` adds folders of further `*.jinja` files.
"""
import argparse
import datetime
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import venv

PINNED = ["transformers==5.24.0", "jinja2==3.1.6"]
WHEELS = ["trl==1.16.0"]  # its templates are read, and nothing of it runs
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--program", default="target/release/alambic")
parser.add_argument("--templates", nargs="*", default=[], type=pathlib.Path)
parser.add_argument("--show", type=int, default=3, help="differences that are printed of each template")


def tool(name, properties, **others):
    return {"type": "function", "function": {"name": name, "description": f"Does {name}, \"quickly\" & <well>", "parameters": {"type": "object", "properties": properties, **others}}}


WEATHER = tool("get_weather", {
    "place": {"type": "string", "description": "Größe, 東京, it's <here>"},
    "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
    "days": {"type": "integer", "minimum": 1, "nullable": True},
}, required=["place"])
ODD = tool("order", {
    "items": {"type": "array", "items": {"type": "string"}, "description": "what to buy"},
    "keys": {"type": "array"},
    "values": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "number", "default": 1e-07}, "b": {"type": "boolean"}}, "required": ["n"]}},
    "price": {"type": ["number", "null"], "maximum": 1e16, "default": 0.5},
    "other": {"anyOf": [{"type": "string"}, {"type": "integer"}], "default": None},
    "one": {"oneOf": [{"type": "string", "description": "text"}, {"type": "number"}]},
    "nothing": {},
}, required=["items", "price"], additionalProperties=False)
CALL = {"type": "function", "id": "call_1", "function": {"name": "get_weather", "arguments": {"place": "Bath", "days": 2}}}
CALLS = [CALL, {"type": "function", "id": "call_2", "function": {"name": "order", "arguments": {"items": ["pen", "ink"], "price": 2.0, "other": None, "keys": [], "nothing": {"a": [1e-05, True]}}}}]
user = lambda content: {"role": "user", "content": content}
assistant = lambda content, **others: {"role": "assistant", "content": content, **others}
system = lambda content: {"role": "system", "content": content}
result = lambda content, **others: {"role": "tool", "content": content, **others}
TURNS = [user("Who wrote 'Emma'?"), assistant("Jane Austen."), user("When?"), assistant(" In 1815.\n")]
CONVERSATIONS = {
    "system and turns": {"messages": [system("Be brief.\nAlways."), *TURNS]},
    "turns": {"messages": TURNS},
    "open turn": {"messages": TURNS[:3]},
    "one message": {"messages": [user("  Hello\n\n")]},
    "tools and results": {"tools": [WEATHER, ODD], "messages": [
        system("Use tools."), user("Weather in Bath?"), assistant("", tool_calls=[CALL]), result("{\"rain\": 0.25}", name="get_weather", tool_call_id="call_1"), assistant("Rain."), user("Thanks"), assistant("Gladly.")]},
    "tools without system": {"tools": [ODD], "messages": [
        user("Pens"), assistant("Two things.", tool_calls=CALLS), result("{\"ok\": true}", name="get_weather", tool_call_id="call_1"), result("done", name="order", tool_call_id="call_2")]},
    "tools, none called": {"tools": [WEATHER], "messages": TURNS},
    "calls without tools": {"messages": [user("Go"), assistant(None, tool_calls=CALLS), result([{"type": "text", "text": "part"}], name="order", tool_call_id="call_2"), assistant("Gone.")]},
    "arguments as text": {"tools": [WEATHER], "messages": [
        user("Go"), assistant(None, tool_calls=[{"type": "function", "id": "abcdef123", "function": {"name": "get_weather", "arguments": "{\"place\": \"Bath\"}"}}]), result("dry", name="get_weather", tool_call_id="abcdef123")]},
    "flat calls": {"tools": [ODD["function"]], "messages": [user("Go"), assistant("", tool_calls=[{"name": "order", "arguments": {"items": []}}]), result("ok", name="order"), assistant("Ok.")]},
    "reasoning": {"messages": [user("2 + 2?"), assistant("4", reasoning_content="It is even."), user("And 3?"), assistant("\n7 ", reasoning_content="\nAdd three.\n")]},
    "thinking": {"messages": [system("Think."), user("2?"), assistant("4", thinking="Twice."), user("3?"), assistant("6", reasoning="Also.")], "chat_template_kwargs": {"enable_thinking": True}},
    "no thinking": {"messages": TURNS[:3], "chat_template_kwargs": {"enable_thinking": False, "reasoning_effort": "high"}},
    "thought in the text": {"messages": [user("2?"), assistant("<think>\nTwice.\n</think>\n\n4"), user("3?"), assistant("<think></think>6"), user("4?")]},
    "reasoning and calls": {"tools": [WEATHER], "messages": [
        user("Bath?"), assistant("Let me look.", reasoning_content="I must look.", tool_calls=[CALL]), result("rain", name="get_weather", tool_call_id="call_1"), assistant("Rain.", reasoning_content="It rains.")]},
    "empty": {"messages": [system(""), user(""), assistant("")]},
    "none": {"messages": [{"role": "user", "content": None, "name": None}, assistant(None, tool_calls=None), user("x")]},
    "parts": {"messages": [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        user([{"type": "image"}, {"type": "text", "text": "What is\u00a0it?"}]), {"role": "assistant", "content": [{"type": "text", "text": "A \"cat\"."}]}]},
    "odd texts": {"messages": [system("\t<|im_end|> {{ x }} {% raw %}"), user("Été 東京 🙂 \u2028 \r\n e\u0301 \\n 'a' \"b\""), assistant("</s><|eot_id|> & < > \u200b\u0007"), user("<think>")]},
    "assistant first": {"messages": [assistant("Welcome."), user("Hello"), assistant("How are you?")]},
    "users in a row": {"messages": [user("a"), user("b"), assistant("c"), assistant("d")]},
    "system in the middle": {"messages": [user("a"), assistant("b"), system("c"), user("d")]},
    "developer": {"messages": [{"role": "developer", "content": "Be brief."}, user("a"), assistant("b")]},
    "unknown role": {"messages": [user("a"), {"role": "critic", "content": "b"}]},
    "documents": {"messages": TURNS[:3], "documents": [{"title": "Emma", "text": "A novel."}]},
    "a name": {"messages": [{"role": "user", "name": "Ann", "content": "a"}, assistant("b", weight=0, train=False)]},
}


def install(folder):
    """Installs what is pinned, and restarts this script with it."""
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run(pip + PINNED, check=True)
    subprocess.run(pip + ["--no-deps", *WHEELS], check=True)
    return subprocess.run([str(folder / "bin" / "python"), *sys.argv], env={**os.environ, "ALAMBIC_PINNED": "1"}).returncode


def templates(folders):
    """Every template of the wheels and of the folders given, by name."""
    site = pathlib.Path(next(path for path in sys.path if path.endswith("site-packages")))
    files = [file for package in ("trl", "transformers") for file in sorted((site / package).rglob("*.jinja"))]
    files += [file for folder in folders for file in sorted(folder.rglob("*.jinja"))]
    found = {}
    for file in files:
        found[str(file.relative_to(site)) if file.is_relative_to(site) else str(file)] = file.read_text()
    return found


def ours(program, folder, *options):
    """Answers of the program: an object for each conversation."""
    done = subprocess.run([program, "data", "render", str(folder), str(folder / "conversations.jsonl"), "--json", *options], capture_output=True, text=True)
    answers = [json.loads(line) for line in done.stdout.split("\n") if line]
    if len(answers) != len(CONVERSATIONS):
        sys.exit(f"{program} gave {len(answers)} answers for {len(CONVERSATIONS)} conversations: {done.stderr}")
    return answers


def theirs(template, conversation, generation_prompt):
    """Text of transformers, and the texts of generation blocks; or the error."""
    from transformers.utils import chat_template_utils as utils

    class Day(datetime.datetime):
        """The day that alambic's rows have in templates that ask for the date."""

        @classmethod
        def now(cls, tz=None):
            return cls(2024, 7, 26)

    utils.datetime = Day
    try:
        texts, spans = utils.render_jinja_template(
            conversations=[utils._normalize_chat_messages(conversation["messages"])], tools=conversation.get("tools"), documents=conversation.get("documents"),
            chat_template=template, return_assistant_tokens_mask=True, add_generation_prompt=generation_prompt, **{**TOKENS, **conversation.get("chat_template_kwargs", {})})
    except Exception as error:  # whatever jinja2 or Python raises
        return {"error": f"{type(error).__name__}: {error}"}
    return {"text": texts[0], "generations": [texts[0][start:end] for start, end in spans[0] if start < end]}


def prints_where_it_stands(template):
    """Tells whether no generation block is in a macro or a set block, where transformers misplaces it."""
    captured = re.sub(r"(?s)\{%-?\s*(macro|call|filter)\b.*?\{%-?\s*end\1|\{%-?\s*set\s+\w+\s*-?%\}.*?\{%-?\s*endset", "", template)
    tag = r"\{%[-+]?\s*generation\s*[-+]?%\}"
    return len(re.findall(tag, captured)) == len(re.findall(tag, template)) > 0


def first_difference(want, got):
    place = next((at for at, pair in enumerate(zip(want, got)) if pair[0] != pair[1]), min(len(want), len(got)))
    near = slice(max(0, place - 40), place + 60)
    return f"at character {place}\n        transformers {want[near]!r}\n        alambic      {got[near]!r}"


def compare(program, name, template, folder, show):
    """Prints what differs for one template. Returns counts: texts compared, refused by both, differing, span texts compared."""
    (folder / "chat_template.jinja").write_text(template)
    texts, refused, spans, faults = 0, 0, 0, []
    for generation_prompt in (False, True):
        answers = ours(program, folder, *(["--generation-prompt"] if generation_prompt else []))
        for (title, conversation), answer in zip(CONVERSATIONS.items(), answers):
            want = theirs(template, conversation, generation_prompt)
            texts += 1
            title += ", with a generation prompt" if generation_prompt else ""
            if "error" in want or "error" in answer:
                refused += "error" in want and "error" in answer
                if not ("error" in want and "error" in answer):
                    faults.append(f"{title}: transformers {want.get('error', 'renders it')}; alambic {answer.get('error', 'renders it')}")
            elif want["text"] != answer["text"]:
                faults.append(f"{title}: {first_difference(want['text'], answer['text'])}")
            elif prints_where_it_stands(template):
                got = [answer["text"].encode()[start:end].decode() for start, end in answer["generations"] or []]
                spans += len(got)
                if got != want["generations"]:
                    faults.append(f"{title}: learnt {got!r}, and {want['generations']!r} in transformers")
    if faults:
        print(f"{name}: {len(faults)} differ")
        for fault in faults[:show]:
            print(f"    {fault}")
    return texts, refused, len(faults), spans


def main(args):
    found = templates(args.templates)
    totals = [0, 0, 0, 0]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "tokenizer_config.json").write_text(json.dumps(TOKENS))
        (folder / "conversations.jsonl").write_text("".join(json.dumps(conversation) + "\n" for conversation in CONVERSATIONS.values()))
        for name, template in found.items():
            counts = compare(args.program, name, template, folder, args.show)
            totals = [total + count for total, count in zip(totals, counts)]
    texts, refused, differing, spans = totals
    print(f"{len(found)} templates x {len(CONVERSATIONS)} conversations x 2 generation prompts: {texts} renderings, {refused} of them refused by both, "
          f"{differing} different; {spans} learnt spans compared")
    return 1 if differing or not found else 0


if __name__ == "__main__":
    arguments = parser.parse_args()
    if "ALAMBIC_PINNED" in os.environ:
        sys.exit(main(arguments))
    with tempfile.TemporaryDirectory() as environment:
        sys.exit(install(pathlib.Path(environment)))
