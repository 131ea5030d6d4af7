#!/usr/bin/env bash
# With `assistant_only_loss`, several training templates of trl also train tokens that the generation prompt supplies, or end elsewhere.
#
# Versions: trl 1.16.0 (its templates alone), transformers 5.24.0, jinja2 3.1.6 (no torch). Seen on Linux, Python 3.11.
#
# Behaviour: trl replaces the chat template of a known model by one of trl/chat_templates/*_training.jinja, whose
#   `{% generation %}` blocks say which text is learnt. For one question and one answer ("Yes."), the block
#   1. begins inside or before what `add_generation_prompt=True` would supply in deepseekv3 and deepseek_r1_distill
#      (the `<｜Assistant｜>` marker), gptoss and muse_glimmer (`<|start|>assistant`), qwen2_5 (the newline behind `assistant`) and
#      qwen3_5_nothink (the whole empty `<think>` block). A model is never asked to write these: they are in its prompt.
#   2. in glm4moe ends with `<|user|>`, the header of the next turn, because that is where this family stops;
#   3. in phi3 and phi3_5 is two blocks: the second is the `</s>` behind `<|end|>\n`, which no chat reaches.
#   Most others (llama3, gemma, gemma3, qwen3_instruct_2507, cohere, lfm2) begin behind the generation prompt and end with the turn.
#
# An expert would guess: an assistant mask covers what the model writes, from behind the generation prompt to its end token.
#
# Output seen: the table below (`expected`), template by template.
#
# Why it matters: losses and measures over such masks count tokens that are always given, and easy; they are not comparable between
#   families. Whoever compares a mask of prefixes with these blocks will see them differ.
#
# Exit: 0 the behaviour is as stated, 1 it changed, 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv" &&
  "$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.24.0 jinja2==3.1.6 &&
  "$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps trl==1.16.0 ||
  { echo "CANNOT TELL: the pinned packages could not be installed" >&2; exit 2; }
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PYTHONIOENCODING=utf-8 TRANSFORMERS_VERBOSITY=error
"$work/venv/bin/python" - <<'PY'
import importlib.metadata
import sys

from transformers.utils.chat_template_utils import render_jinja_template

ASKED = [{"role": "user", "content": "Hi"}]
TURNS = [*ASKED, {"role": "assistant", "content": "Yes."}]
# What the blocks print, and what the generation prompt adds.
expected = {
    "deepseekv3": (["<｜Assistant｜>Yes.<｜end▁of▁sentence｜>"], "<｜Assistant｜><think>\n"),
    "deepseek_r1_distill": (["<｜Assistant｜>Yes.<｜end▁of▁sentence｜>"], "<｜Assistant｜><think>\n"),
    "gptoss": (["<|start|>assistant<|channel|>final<|message|>Yes.<|return|>"], "<|start|>assistant"),
    "muse_glimmer": (["<|start|>assistant to=user<|message|>Yes.<|eot|>"], "<|start|>assistant"),
    "qwen2_5": (["\nYes.<|im_end|>\n"], "<|im_start|>assistant\n"),
    "qwen3_5_nothink": (["<think>\n\n</think>\n\nYes.<|im_end|>\n"], "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
    "glm4moe": (["\n<think></think>\nYes.<|user|>"], "<|assistant|>"),
    "phi3": (["Yes.<|end|>\n", "</s>"], None),
    "phi3_5": (["Yes.<|end|>\n", "</s>"], None),
    "llama3": (["Yes.<|eot_id|>"], "<|start_header_id|>assistant<|end_header_id|>\n\n"),
    "qwen3_instruct_2507": (["Yes.<|im_end|>\n"], "<|im_start|>assistant\n"),
}
templates = {path.name: path.locate() for path in importlib.metadata.files("trl") if path.suffix == ".jinja"}
changed = False
for name, want in expected.items():
    source = templates[f"{name}_training.jinja"].read_text(encoding="utf-8")

    def render(messages, **options):
        return render_jinja_template(conversations=[messages], chat_template=source, bos_token="<s>", eos_token="</s>", **options)

    texts, spans = render(TURNS, return_assistant_tokens_mask=True)
    learnt = [texts[0][begin:end] for begin, end in spans[0]]
    without, with_prompt = render(ASKED)[0][0], render(ASKED, add_generation_prompt=True)[0][0]
    supplied = with_prompt[len(without):] if with_prompt.startswith(without) else None
    found = (learnt, supplied)
    print(f"{name:22} learnt {learnt!r}, generation prompt {supplied!r}")
    if found != want:
        changed = True
        print(f"  CHANGED: it was {want!r}")
sys.exit(changed)
PY
