#!/usr/bin/env python3
"""Writes tests/golden/hf-NAME: a tiny model of a family with random weights, as transformers saves it, and its logits.

    python scripts/make_family_golden.py NAME...

Made with torch 2.13.0 and transformers 5.17.0. Weights are bf16; the logits of `expected/logits.safetensors` are computed from them in f32. The
tokenizer is that of tests/golden/hf-mistral.
"""
import pathlib
import shutil
import sys

import torch
import transformers
from safetensors.torch import save_file

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden"
IDS = [1, 5, 17, 42, 100, 200, 7, 3, 299, 64, 65, 66, 13, 250, 128, 31]
TOKENIZER = ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"]
SIZES = dict(vocab_size=320, hidden_size=128, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0)
# Seeds, classes and settings. Of Phi 3 the sixteen positions are more than it was trained with; of SmolLM 3 the fourth layer has no rope.
MODELS = {
    "phi3": (12, "Phi3", dict(tie_word_embeddings=True, original_max_position_embeddings=8, rope_parameters=dict(
        rope_type="longrope", rope_theta=1e4, partial_rotary_factor=0.75,
        short_factor=[1 + pair / 64 for pair in range(12)], long_factor=[1 + pair * pair / 8 for pair in range(12)]))),
    "olmo2": (13, "Olmo2", dict(rope_parameters=dict(rope_type="default", rope_theta=5e5))),
    "smollm3": (14, "SmolLM3", dict(hidden_size=64, num_hidden_layers=4, head_dim=32)),
}


def make(name):
    seed, family, settings = MODELS[name]
    config = getattr(transformers, family + "Config")(**SIZES | settings)
    model = getattr(transformers, family + "ForCausalLM")(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.copy_(1 + 0.1 * noise)
            else:
                parameter.copy_(noise * (0.08 if "embed" in key else parameter.shape[-1] ** -0.5))
    folder = GOLDEN / f"hf-{name}"
    model = model.to(torch.bfloat16).eval()
    model.generation_config = transformers.GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model.save_pretrained(folder)
    for file in TOKENIZER:
        shutil.copy(GOLDEN / "hf-mistral" / file, folder / file)
    model = type(model).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.tensor([IDS])
    with torch.no_grad():
        logits = model(ids).logits[0].contiguous()
    (folder / "expected").mkdir(exist_ok=True)
    save_file({"input_ids": ids[0], "logits_f32": logits}, folder / "expected" / "logits.safetensors")
    print(f"{folder.name}: {sum(file.stat().st_size for file in folder.iterdir())} bytes, deviation of logits {logits.std():.3f}")


if __name__ == "__main__":
    names = sys.argv[1:]
    if not names or any(name not in MODELS for name in names):
        sys.exit(f"usage: make_family_golden.py NAME...; names: {', '.join(MODELS)}")
    for name in names:
        make(name)
