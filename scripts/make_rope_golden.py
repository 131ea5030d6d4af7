#!/usr/bin/env python3
"""Writes tests/golden/rope_settings.json: rotary settings of config.json in the styles of transformers 4 and 5, and what transformers reads.

    pip install transformers==5.23.0      (no torch: config classes alone)
    python3 scripts/make_rope_golden.py

Each case is a family, the keys of its config.json, and `[rope_type, rope_theta, factor]` of full layers and, in Gemma 3, of sliding ones; of longrope
the trained context stands in the place of the factor, and behind it in Phi 3 the share of a head that turns.
"""
import copy
import json
import pathlib

import transformers
from transformers import AutoConfig

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "rope_settings.json"
LINEAR, OLD_LINEAR = {"rope_type": "linear", "factor": 8.0}, {"type": "linear", "factor": 8.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
DEFAULT = {"rope_type": "default"}
FLAT = [
    {},
    {"rope_theta": 3e4},
    {"rope_theta": 3e4, "rope_scaling": None},
    {"rope_scaling": LINEAR},
    {"rope_scaling": OLD_LINEAR},
    {"rope_theta": 3e4, "rope_scaling": OLD_LINEAR},
    {"rope_scaling": {**LINEAR, "rope_theta": 5e5}},
    {"rope_theta": 3e4, "rope_scaling": {**LINEAR, "rope_theta": 5e5}},
    {"rope_theta": 3e4, "rope_scaling": {"factor": 4.0}},
    {"rope_parameters": {**DEFAULT, "rope_theta": 5e5}},
    {"rope_parameters": DEFAULT, "rope_theta": 3e4},
    {"rope_parameters": None, "rope_theta": 3e4},
    {"rope_parameters": {**OLD_LINEAR, "rope_theta": 5e5}},
    {"rope_parameters": {**DEFAULT, "rope_theta": 5e5}, "rope_theta": 1e4},
    {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}, "rope_scaling": None, "rope_theta": 5e5},
    {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}, "rope_scaling": None},
    {"rope_parameters": {**LINEAR, "rope_theta": 5e5}, "rope_scaling": {}},
    {"rope_parameters": {**LINEAR, "rope_theta": 5e5}, "rope_scaling": LINEAR, "rope_theta": 5e5},
    {"rope_parameters": {**LINEAR, "rope_theta": 5e5}, "rope_scaling": {**LINEAR, "rope_theta": 5e5}},
    {"rope_parameters": {**LINEAR, "rope_theta": 5e5}, "rope_scaling": LINEAR},
    {"rope_parameters": {**LINEAR, "rope_theta": 1e4}, "rope_scaling": LINEAR},
    {"rope_parameters": {**LINEAR, "rope_theta": 5e5}, "rope_scaling": LINEAR, "rope_theta": 3e4},
    {"rope_parameters": {**LINEAR, "rope_theta": 5e5}, "rope_scaling": DEFAULT},
]
# Two pairs of dimensions: only families whose heads have four here.
FACTORS = {"short_factor": [1.0, 1.25], "long_factor": [2.0, 4.5]}
LONG = {"rope_type": "longrope", **FACTORS, "original_max_position_embeddings": 64}
LONGROPE = [
    {"rope_scaling": LONG},
    {"rope_theta": 3e4, "rope_scaling": LONG},
    {"rope_parameters": {**LONG, "rope_theta": 5e5}},
    {"rope_parameters": {**LONG, "rope_theta": 5e5}, "original_max_position_embeddings": 64},
    {"rope_parameters": {**LONG, "rope_theta": 5e5}, "original_max_position_embeddings": 32},
    {"rope_parameters": {**LONG, "rope_theta": 5e5}, "rope_scaling": LONG, "rope_theta": 5e5},
]
# Phi 3 alone: what stands beside the table counts, a part of a head may turn, and `yarn` is a name of longrope. (So is `su`, with which
# 5.23 fails: it looks for the context before it renames the type.)
OLD_LONG = {"type": "longrope", **FACTORS}
PHI3 = [
    {},
    {"rope_theta": 3e4},
    {"rope_scaling": None, "partial_rotary_factor": 0.5},
    {"rope_parameters": {**DEFAULT, "rope_theta": 5e5, "partial_rotary_factor": 0.5}},
    {"rope_parameters": {**DEFAULT, "rope_theta": 5e5, "partial_rotary_factor": 0.5}, "partial_rotary_factor": 1.0},
    {"rope_scaling": OLD_LONG},
    {"rope_scaling": OLD_LONG, "original_max_position_embeddings": 64},
    {"rope_scaling": {**OLD_LONG, "type": "yarn"}, "original_max_position_embeddings": 64},
    {"rope_scaling": {"type": "longrope", "short_factor": [1.5], "long_factor": [2.5]}, "partial_rotary_factor": 0.5, "rope_theta": 3e4},
    {"rope_parameters": {**LONG, "rope_theta": 5e5}},
    {"rope_parameters": {**LONG, "rope_theta": 5e5}, "original_max_position_embeddings": 64},
    {"rope_parameters": {**LONG, "rope_theta": 5e5}, "rope_scaling": OLD_LONG, "rope_theta": 5e5, "original_max_position_embeddings": 64},
]
FULL, SLIDING = {**DEFAULT, "rope_theta": 1e6}, {**DEFAULT, "rope_theta": 1e4}
BY_LAYER = [
    {},
    {"rope_theta": 3e6, "rope_local_base_freq": 5.0},
    {"rope_scaling": None},
    {"rope_scaling": {}},
    {"rope_scaling": LINEAR},
    {"rope_scaling": OLD_LINEAR},
    {"rope_theta": 3e6, "rope_local_base_freq": 5.0, "rope_scaling": OLD_LINEAR},
    {"rope_scaling": {**OLD_LINEAR, "rope_type": "default"}},
    {"rope_scaling": {**OLD_LINEAR, "rope_theta": 5e5}},
    {"rope_theta": 3e6, "rope_scaling": {**LINEAR, "rope_theta": 5e5}},
    {"rope_parameters": {"full_attention": FULL, "sliding_attention": SLIDING}},
    {"rope_parameters": {"full_attention": FULL, "sliding_attention": SLIDING}, "rope_scaling": None},
    {"rope_parameters": {"full_attention": FULL, "sliding_attention": SLIDING}, "rope_scaling": OLD_LINEAR},
    {"rope_parameters": {"full_attention": {**LINEAR, "rope_theta": 1e6}, "sliding_attention": SLIDING}, "rope_scaling": OLD_LINEAR},
    {"rope_parameters": {"full_attention": {**LINEAR, "rope_theta": 2e6}, "sliding_attention": SLIDING}, "rope_scaling": LINEAR},
    {"rope_parameters": {"full_attention": {**OLD_LINEAR, "rope_theta": 1e6}, "sliding_attention": SLIDING}},
    {"rope_parameters": {"full_attention": {"rope_theta": 5e6}}, "rope_local_base_freq": 5.0},
    {"rope_parameters": {"full_attention": None, "sliding_attention": {"rope_theta": 7.0}}, "rope_theta": 3e6},
    {"rope_parameters": {"full_attention": FULL, "sliding_attention": {**LINEAR, "rope_theta": 1e4}}},
    {"rope_parameters": {**LINEAR, "rope_theta": 5e5}},
]
CLASS_NAMES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3", "gemma": "Gemma", "gemma2": "Gemma2", "gemma3_text": "Gemma3",
               "phi3": "Phi3", "olmo2": "Olmo2", "smollm3": "SmolLM3"}
CASES = {"gemma3_text": BY_LAYER, "phi3": PHI3, "qwen3": FLAT, "gemma": FLAT, "gemma2": FLAT}


def read(family, keys):
    keys = copy.deepcopy(keys)
    if family == "gemma3_text":
        keys |= {"num_hidden_layers": 2, "sliding_window_pattern": 2}
    keys |= {"hidden_size": 128, "num_attention_heads": 32, "max_position_embeddings": 512}
    found = type(AutoConfig.for_model(family)).from_dict({"model_type": family, **keys})
    found.standardize_rope_params()  # as the model does once more, by when the config has every key of the file
    found = found.rope_parameters
    parts = [found[kind] for kind in ("full_attention", "sliding_attention")] if family == "gemma3_text" else [found]
    scaled = lambda part: part[{"longrope": "original_max_position_embeddings"}.get(part["rope_type"], "factor")] if part["rope_type"] != "default" else None
    share = [found["partial_rotary_factor"]] if family == "phi3" else []
    return [[part["rope_type"], part["rope_theta"], scaled(part), *share] for part in parts]


cases = [
    dict(architecture=f"{CLASS_NAMES[family]}ForCausalLM", keys=keys, read=read(family, keys))
    for family in CLASS_NAMES
    for keys in CASES.get(family, FLAT + LONGROPE)
]
golden = dict(made_by="scripts/make_rope_golden.py", transformers=transformers.__version__, cases=cases)
GOLDEN.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
print(f"{len(cases)} cases, {GOLDEN.stat().st_size} bytes")
