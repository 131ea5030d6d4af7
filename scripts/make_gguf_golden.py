#!/usr/bin/env python3
"""Golden files of the GGUF reader, written into tests/golden/gguf by software that shares nothing with alambic.

    pip install gguf==0.19.0 sentencepiece==0.2.1 tokenizers==0.23.2
    python3 scripts/make_gguf_golden.py

blocks.json: blocks of every tensor type and their values, by the reference decoder of the `gguf` package.
*.gguf, tokenizers.json: small vocabularies without tensors, and the ids that the original tokenizers (the tokenizers
and sentencepiece libraries) give on varied text. Everything is seeded.
"""
import json
import tempfile
from pathlib import Path

import gguf
import numpy as np
import sentencepiece
import tokenizers
from gguf.quants import dequantize, quantize
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "tests/golden/gguf"
SEED = 17
NUM_BLOCKS = 2

TEXTS = [
    "",
    " ",
    "The hint was immediately taken up by Mr Shepherd, whose interest was involved.",
    "I'll say it's what we'd DON'T they'RE, isn't it?  Two  spaces   three    four     five.",
    "In 1814, 27 of 1,234,567 (or 3.14159) were 007; x2y3 20000",
    "def main(argv: list[str]) -> int:\n    for i in range(10):\n\t\treturn i  # done\n\n\n}\r\n",
    "Ünïcödé: naïve café — “quotes” … ½ ² Ⅷ ٣٤ 日本語のテキスト 안녕하세요 привет العربية 🙂👩‍👩‍👧 e\u0301 \u00e9 \u2126",
    "  leading, trailing  ",
    "\t\ttabs\tand\nnew\n\nlines\n\n\n\nend\n",
    "http://example.org/a_b-c?d=e&f=%20#g $5 <tag/> ```code``` ~~~ ^^ || ++ == a/b\\c /\n/\n",
    "word<|endoftext|>next <|im_start|> user<|im_end|>\n",
    "HelloWORLD camelCase ABCdef GHI",
    "\u00a0nbsp\u3000wide\u200bzero \ufeff",
    "aaaaaaaaaaaaaaaa        bbbbbbbb................--------",
]


def corpus():
    text = (ROOT / "datasets/austen/validation/persuasion.txt").read_text()[:6000]
    return text.splitlines(keepends=True) + TEXTS


def blocks():
    rng = np.random.default_rng(SEED)
    out = {}
    for name in ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]:
        kind = gguf.GGMLQuantizationType[name]
        block_len, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        if name.endswith("_K"):
            # The package has no K-quantisers: any bytes are codes, but scales must be finite halves.
            raw = rng.integers(0, 256, (NUM_BLOCKS, block_bytes), dtype=np.uint8)
            scales = rng.uniform(-0.02, 0.02, (NUM_BLOCKS, 2)).astype(np.float16).view(np.uint8).reshape(NUM_BLOCKS, 4)
            if name == "Q6_K":
                raw[:, -2:] = scales[:, :2]
            else:
                raw[:, :4] = scales
        else:
            num = max(NUM_BLOCKS * block_len, 64)
            raw = quantize(rng.standard_normal((1, num)).astype(np.float32), kind)
            raw = np.ascontiguousarray(raw).view(np.uint8)
        values = dequantize(raw.reshape(1, -1), kind).astype("<f4")
        out[name] = {"bytes": raw.tobytes().hex(), "values": values.tobytes().hex()}
    return {"gguf": "0.19.0", "seed": SEED, "types": out}


def writer(name):
    OUT.mkdir(parents=True, exist_ok=True)
    return gguf.GGUFWriter(OUT / f"{name}.gguf", "llama")


def finish(out):
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(regex):
    return [
        pre_tokenizers.Split(Regex(regex), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]


def byte_level(name, pre, steps, normalizer=None, ignore_merges=False, last_specials=False):
    """Trains a BPE with a family's own pre-tokenizer; GGUF and ids."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = normalizer
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=560, special_tokens=[] if last_specials else specials, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    if last_specials:  # as Llama 3 and Qwen: behind the vocabulary, not in it
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
        tokenizer.add_tokens([AddedToken("```", special=False, normalized=False)])
    file = json.loads(tokenizer.to_str())
    tokens = {id: token for token, id in file["model"]["vocab"].items()}
    kinds = {token["id"]: 3 if token["special"] else 4 for token in file["added_tokens"]}
    tokens.update({token["id"]: token["content"] for token in file["added_tokens"]})
    padded = len(tokens) + 4
    out = writer(name)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre(pre)
    out.add_token_list([tokens.get(id, f"[PAD{id}]") for id in range(padded)])
    out.add_token_types([kinds.get(id, 1) if id in tokens else 5 for id in range(padded)])
    out.add_token_merges([" ".join(pair) for pair in file["model"]["merges"]])
    out.add_eos_token_id(tokenizer.token_to_id("<|endoftext|>"))
    finish(out)
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
    return {"vocab_size": len(tokens), "ids": ids}


def sentencepieces(name, add_space, symbols):
    """Trains a SentencePiece BPE with byte fallback; GGUF and ids."""
    with tempfile.TemporaryDirectory() as folder:
        model = f"{folder}/m"
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(line.rstrip("\n") for line in corpus()), model_prefix=model, model_type="bpe",
            vocab_size=600, byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
            add_dummy_prefix=add_space, split_digits=True, allow_whitespace_only_pieces=True, character_coverage=0.98,
            user_defined_symbols=symbols, num_threads=1, minloglevel=2)
        spm = sentencepiece.SentencePieceProcessor(model_file=model + ".model")
    size = spm.get_piece_size()
    kinds = []
    for id in range(size):
        is_user = spm.id_to_piece(id) in symbols
        kind = 2 if spm.is_unknown(id) else 3 if spm.is_control(id) else 6 if spm.is_byte(id) else 4 if is_user else 1
        kinds.append(kind)
    out = writer(name)
    out.add_tokenizer_model("llama")
    out.add_tokenizer_pre("default")
    out.add_token_list([spm.id_to_piece(id) for id in range(size)])
    out.add_token_scores([spm.get_score(id) for id in range(size)])
    out.add_token_types(kinds)
    out.add_bos_token_id(spm.bos_id())
    out.add_eos_token_id(spm.eos_id())
    out.add_unk_token_id(spm.unk_id())
    out.add_add_bos_token(True)
    out.add_add_space_prefix(add_space)
    finish(out)
    return {"vocab_size": size, "ids": [spm.encode(text) for text in TEXTS]}


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "blocks.json").write_text(json.dumps(blocks()) + "\n")
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    files = {
        "bpe-gpt2": byte_level("bpe-gpt2", "gpt-2", [gpt2]),
        "bpe-smollm": byte_level("bpe-smollm", "smollm", [pre_tokenizers.Digits(individual_digits=True), gpt2]),
        "bpe-llama3": byte_level("bpe-llama3", "llama-bpe", split(LLAMA3), ignore_merges=True, last_specials=True),
        "bpe-qwen2": byte_level("bpe-qwen2", "qwen2", split(QWEN2), normalizers.NFC(), last_specials=True),
        "bpe-tekken": byte_level("bpe-tekken", "tekken", split(TEKKEN), ignore_merges=True),
        "spm-llama": sentencepieces("spm-llama", True, []),
        "spm-gemma": sentencepieces("spm-gemma", False, ["\n\n", "\n\n\n", "\t\t", "▁▁", "▁▁▁", "▁▁▁▁"]),
    }
    golden = {"tokenizers": tokenizers.__version__, "sentencepiece": sentencepiece.__version__, "texts": TEXTS}
    (OUT / "tokenizers.json").write_text(json.dumps({**golden, "files": files}) + "\n")
    for file in sorted(OUT.iterdir()):
        print(file.name, file.stat().st_size if file.is_file() else "")
