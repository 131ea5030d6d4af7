#!/usr/bin/env bash
# Gemma 3 drops a rotary scaling spelt `type`; in other families an old `rope_scaling` replaces all of the new `rope_parameters`.
#
# Versions: transformers 5.23.0, huggingface_hub 2.4.0 (config classes alone; no torch). Seen on Linux, Python 3.11.
#
# Behaviour:
#   1. Gemma 3 with the old `rope_scaling: {"type": "linear", "factor": 8.0}`: full layers get rope_type "default", that is, no scaling
#      (the model picks its rotary function by rope_type). The two old keys stay in the dict beside it; saving keeps it so.
#      The only sign is one log line that calls the key `factor` unrecognised; it does not say that the scaling is off.
#      With `rope_type` in place of `type` the scaling is kept.
#      Llama, Mistral, Qwen 2 and 3, Gemma 1 and 2 read `type` as `rope_type`, and so does Gemma 3 itself inside `rope_parameters`.
#   2. In those other families a non-empty old `rope_scaling` beside new `rope_parameters` replaces them whole, with no log line:
#      kind and factor come from the old key; the base comes from `rope_theta` inside the old one, else from the old `rope_theta`,
#      else it is 10000. An old `rope_theta` alone changes nothing, nor does `rope_scaling` null or {}.
#   3. Gemma 3 does not replace: there the old keys are laid over those of full layers. Its base is kept; sliding layers stay as they are.
#
# An expert would guess: `type` and `rope_type` mean the same in all families; new keys win over old ones, or are merged key by key.
#
# Output seen:
#   gemma3_text  rope_scaling with type               default 1000000
#   gemma3_text  rope_scaling with rope_type          linear  1000000 factor 8.0
#   llama        rope_scaling with type               linear  10000   factor 8.0
#   llama        new (llama3, 500000)                 llama3  500000  factor 8.0
#   llama        new + old scaling                    linear  10000   factor 4.0
#   llama        new + old scaling + old theta        linear  30000   factor 4.0
#
# Why it matters to people who export models: the folder loads without an error, but positions are turned otherwise than in training.
#   Whoever writes both spellings, for old and new readers, must write the old `rope_theta` too, with equal values,
#   and `rope_type` rather than `type`.
#
# Exit: 0 the behaviour is as stated, 1 it changed, 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv" &&
  "$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 huggingface_hub==2.4.0 ||
  { echo "CANNOT TELL: the pinned packages could not be installed" >&2; exit 2; }
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PYTHONIOENCODING=utf-8
unset TRANSFORMERS_VERBOSITY TRANSFORMERS_NO_ADVISORY_WARNINGS
"$work/venv/bin/python" - "$work" <<'PY'
import json, logging, pathlib, sys
from transformers import AutoConfig

folder = pathlib.Path(sys.argv[1]) / "model"
saved = pathlib.Path(sys.argv[1]) / "saved"
folder.mkdir()


class Heard(logging.Handler):
    lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


logging.getLogger("transformers").addHandler(Heard(logging.WARNING))


def rope(config):
    return getattr(config, "text_config", config).rope_parameters


def effect(part):
    """What a model built from this acts on: kind, base, and the factor if the kind has one."""
    return part["rope_type"], part["rope_theta"], None if part["rope_type"] == "default" else part["factor"]


def check(family, label, keys, wanted, sliding=None, logged=False):
    Heard.lines.clear()
    (folder / "config.json").write_text(json.dumps({"model_type": family, **keys}))
    config = AutoConfig.from_pretrained(str(folder))
    said = list(Heard.lines)
    config.save_pretrained(str(saved))
    for state, found in (("", rope(config)), (" (saved, loaded again)", rope(AutoConfig.from_pretrained(str(saved))))):
        case, part = f"{family}, {label}{state}", found
        if "full_attention" in found:
            part = found["full_attention"]
            if effect(found["sliding_attention"]) != (sliding or ("default", 1e4, None)):
                sys.exit(f"CHANGED: {case}: sliding layers read {found['sliding_attention']}")
        if effect(part) != wanted:
            sys.exit(f"CHANGED: {case}: read {part}, expected {wanted}")
    if logged and (part.get("type"), part.get("factor")) != ("linear", 8.0):
        sys.exit(f"CHANGED: {family}, {label}: the old keys no longer stay in the dict: {part}")
    if not logged and said:
        sys.exit(f"CHANGED: {family}, {label}: no longer without a log line: {said}")
    if logged and not (len(said) == 1 and "'rope_type'='default': {'factor'}" in said[0]):
        sys.exit(f"CHANGED: {family}, {label}: expected one log line about `factor`, got {said}")
    kind, base, factor = effect(part)
    print(f"{family:<13}{label:<40}{kind:<8}{base:<8.0f}{f'factor {factor}' if factor else '':<12}{'(log: factor unrecognised)' if logged else ''}".rstrip())


TYPE, ROPE_TYPE = {"type": "linear", "factor": 8.0}, {"rope_type": "linear", "factor": 8.0}
OLD = {"rope_type": "linear", "factor": 4.0}
NEW = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 5e5}
SLIDING = {"rope_type": "default", "rope_theta": 2e4}
BY_LAYER = {"full_attention": {**ROPE_TYPE, "rope_theta": 2e6}, "sliding_attention": SLIDING}

# 1. `type` is lost in Gemma 3.
check("gemma3_text", "rope_scaling with type", {"rope_scaling": TYPE}, ("default", 1e6, None), logged=True)
check("gemma3", "text_config.rope_scaling with type", {"text_config": {"rope_scaling": TYPE}}, ("default", 1e6, None), logged=True)
check("gemma3_text", "rope_scaling with rope_type", {"rope_scaling": ROPE_TYPE}, ("linear", 1e6, 8.0))
check("gemma3", "text_config.rope_scaling with rope_type", {"text_config": {"rope_scaling": ROPE_TYPE}}, ("linear", 1e6, 8.0))
check("gemma3_text", "rope_parameters with type", {"rope_parameters": {**BY_LAYER, "full_attention": {**TYPE, "rope_theta": 2e6}}}, ("linear", 2e6, 8.0), effect(SLIDING))

# 2. An old scaling replaces the new parameters.
for family in ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2"):
    both = {"rope_parameters": NEW, "rope_scaling": OLD}
    kept = ("llama3", 5e5, 8.0)
    check(family, "rope_scaling with type", {"rope_scaling": TYPE}, ("linear", 1e4, 8.0))
    check(family, "new (llama3, 500000)", {"rope_parameters": NEW}, kept)
    check(family, "new + old theta", {"rope_parameters": NEW, "rope_theta": 3e4}, kept)
    check(family, "new + old scaling null", {"rope_parameters": NEW, "rope_scaling": None}, kept)
    check(family, "new + old scaling {}", {"rope_parameters": NEW, "rope_scaling": {}}, kept)
    check(family, "new + old scaling", both, ("linear", 1e4, 4.0))
    check(family, "new + old scaling + old theta", {**both, "rope_theta": 3e4}, ("linear", 3e4, 4.0))
    check(family, "new + old scaling with theta inside", {**both, "rope_scaling": {**OLD, "rope_theta": 7e4}, "rope_theta": 3e4}, ("linear", 7e4, 4.0))

# 3. In Gemma 3 it is laid over full layers.
check("gemma3_text", "new (linear, 2000000)", {"rope_parameters": BY_LAYER}, ("linear", 2e6, 8.0), effect(SLIDING))
check("gemma3_text", "new + old scaling", {"rope_parameters": BY_LAYER, "rope_scaling": OLD}, ("linear", 2e6, 4.0), effect(SLIDING))
check("gemma3_text", "new + old scaling + old theta", {"rope_parameters": BY_LAYER, "rope_scaling": OLD, "rope_theta": 3e4}, ("linear", 2e6, 4.0), effect(SLIDING))
print("As stated.")
PY
