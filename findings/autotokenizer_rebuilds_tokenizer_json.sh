#!/usr/bin/env bash
# AutoTokenizer does not always run what tokenizer.json says.
#
# Versions: transformers 5.23.0, tokenizers 0.23.3, huggingface_hub 2.4.0. No torch. Seen on Linux, Python 3.11.
#
# Behaviour: AutoTokenizer.from_pretrained picks a class from config.json (model_type) and tokenizer_config.json (tokenizer_class).
#   Some classes take vocabulary and merges from tokenizer.json, but build normaliser, pre-tokenizer and decoder from their
#   own code. Nothing is logged. There are three groups of model types:
#   - qwen2 (and qwen3_5): the model's own class is always used, even where the folder asks for PreTrainedTokenizerFast;
#   - llama, qwen3, gemma3_text, gpt2 and more: PreTrainedTokenizerFast honours the file, but GPT2Tokenizer, Qwen2Tokenizer or
#     GemmaTokenizer rebuild it. With no tokenizer_class the model's own class is used: qwen3 then rebuilds, llama does not;
#   - mistral, phi3, olmo2, granite and more: the file is honoured, whichever of these classes is named.
#   save_pretrained then writes the rebuilt parts into tokenizer.json, so every later reader has them too.
#
# An expert would guess: tokenizer.json is the whole tokenizer; every reader gives the ids that the tokenizers library gives;
#   tokenizer_class PreTrainedTokenizerFast asks for exactly that; load and save leaves the file's meaning as it was.
#
# Output seen (text "AB 12"; the file lower-cases and splits digits):
#   tokenizers alone                      ab Ġ 1 2
#   llama   PreTrainedTokenizerFast       ab Ġ 1 2    honoured
#   llama   GPT2Tokenizer                 AB Ġ 12     rebuilt
#   llama   Qwen2Tokenizer                AB Ġ 1 2    rebuilt
#   llama   GemmaTokenizer                AB ▁ 12     rebuilt
#   qwen2   PreTrainedTokenizerFast       AB Ġ 1 2    rebuilt
#   ... and the same ids from the saved file, with the tokenizers library alone.
#
# Why it matters to people who export models: a model trained or checked with tokenizer.json gets other ids in transformers, with
#   no error, if its file differs from its class. Name PreTrainedTokenizerFast; for qwen2 keep to the class's own parts;
#   compare ids after export.
#
# Exit: 0 the behaviour is as stated, 1 it changed, 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv" &&
  "$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3 huggingface_hub==2.4.0 ||
  { echo "CANNOT TELL: the pinned packages could not be installed" >&2; exit 2; }
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PYTHONIOENCODING=utf-8
unset TRANSFORMERS_VERBOSITY TRANSFORMERS_NO_ADVISORY_WARNINGS
"$work/venv/bin/python" - "$work" <<'PY'
import json, logging, pathlib, sys, warnings
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer

work = pathlib.Path(sys.argv[1])
TEXT = "AB 12"
GENERIC = "PreTrainedTokenizerFast"
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<|endoftext|>"]  # all that the classes below ask for


def fail(message):
    sys.exit(f"CHANGED: {message}")


# A tiny byte-level BPE that lower-cases, and splits digits.
tokens = SPECIAL + sorted(pre_tokenizers.ByteLevel.alphabet()) + ["▁", "ab", "AB", "12"]
source = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[("a", "b"), ("A", "B"), ("1", "2")]))
source.normalizer = normalizers.Lowercase()
source.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
source.decoder = decoders.Sequence([decoders.ByteLevel()])  # the same text, but told apart in the file
source.add_special_tokens(SPECIAL)


def folder(model_type, tokenizer_class):
    path = work / f"{model_type}_{tokenizer_class}"
    path.mkdir()
    source.save(str(path / "tokenizer.json"))
    (path / "config.json").write_text(json.dumps({"model_type": model_type}))
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": tokenizer_class} if tokenizer_class else {}))
    return path


def raw(path):
    return Tokenizer.from_file(str(path / "tokenizer.json")).encode(TEXT, add_special_tokens=False)


def auto_ids(tokenizer):
    return tokenizer(TEXT, add_special_tokens=False)["input_ids"]


def parts(path):
    file = json.loads((path / "tokenizer.json").read_text(encoding="utf-8"))
    return [file[part] for part in ("normalizer", "pre_tokenizer", "decoder")], [file["model"][part] for part in ("vocab", "merges")]


class Heard(logging.Handler):
    lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


logging.getLogger("transformers").addHandler(Heard(logging.WARNING))
RULES, OTHERS = ("llama", "qwen3", "gemma3_text", "gpt2"), ("mistral", "phi3", "olmo2", "granite")
OWN = ("GPT2Tokenizer", "Qwen2Tokenizer", "GemmaTokenizer")
# (model_type, tokenizer_class) -> the tokens AutoTokenizer gives
KEPT, GPT2, QWEN, GEMMA = "ab Ġ 1 2", "AB Ġ 12", "AB Ġ 1 2", "AB ▁ 12"
expected = {(kind, GENERIC): KEPT for kind in RULES + OTHERS}
expected |= {(kind, name): found for kind in RULES for name, found in zip(OWN, (GPT2, QWEN, GEMMA))}
expected |= {(kind, name): KEPT for kind in OTHERS for name in OWN}
expected |= {(kind, name): QWEN for kind in ("qwen2", "qwen3_5") for name in (GENERIC, *OWN, None)}
expected |= {("llama", None): KEPT, ("qwen3", None): QWEN, ("gpt2", None): GPT2}

print(f"{'tokenizers alone':<38}{' '.join(source.encode(TEXT).tokens)}")
for (model_type, tokenizer_class), wanted in expected.items():
    path = folder(model_type, tokenizer_class)
    case = f"{model_type} with {tokenizer_class}"
    Heard.lines.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tokenizer = AutoTokenizer.from_pretrained(str(path))
    said = Heard.lines + [str(w.message) for w in caught if "transformers" in w.filename]
    if said:
        fail(f"{case}: no longer silent: {said}")
    ids, before = auto_ids(tokenizer), raw(path)
    found = " ".join(tokenizer.convert_ids_to_tokens(ids))
    if before.tokens != KEPT.split() or found != wanted:
        fail(f"{case}: tokens {found}, expected {wanted} (tokenizers alone: {' '.join(before.tokens)})")
    if (ids == before.ids) != (wanted == KEPT):
        fail(f"{case}: ids {ids} against {before.ids} in the file")

    saved = work / f"{path.name}_saved"
    tokenizer.save_pretrained(str(saved))
    after = raw(saved)
    if after.ids != ids:
        fail(f"{case}: the saved file gives {after.ids}, AutoTokenizer gave {ids}")
    own, words = parts(path)
    own_after, words_after = parts(saved)
    replaced = [a != b for a, b in zip(own, own_after)]
    if words_after != words or any(replaced) != (wanted != KEPT) or any(replaced) != all(replaced):
        fail(f"{case}: normaliser, pre-tokenizer, decoder replaced: {replaced}; vocabulary and merges kept: {words_after == words}")
    if wanted != KEPT:  # even where nobody asks for the class any more
        (saved / "config.json").write_text('{"model_type": "llama"}')
        (saved / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": GENERIC}))
        if auto_ids(AutoTokenizer.from_pretrained(str(saved))) != ids:
            fail(f"{case}: saving no longer makes the rebuilt parts permanent")
    print(f"{model_type:<13}{str(tokenizer_class or '(no class)'):<25}{found:<11}{'honoured' if wanted == KEPT else 'rebuilt, silently; saved so'}")
print(f"As stated: {len(expected)} cases.")
PY
