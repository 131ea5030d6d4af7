#!/usr/bin/env python3
"""Makes datasets/chat: 4,000 short conversations to train on and 400 to measure on. python3 scripts/make_chat.py

The questions are simple enough for a model of a few million parameters: what comes next in a sentence, its first or last word,
the next day or letter, sums below twenty, opposites. Sentences are from the novels in datasets/austen, which are in the public
domain; everything else is written here and in the public domain, too (CC0). A conversation has one to three turns, a third of them
a system message, and is shorter than 256 tokens of any common tokenizer. The same seed gives the same bytes with any Python 3.
"""
import hashlib
import json
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "datasets/chat"
SIZES = {"train": 4000, "validation": 400}
SYSTEM = [
    "You are a patient friend who answers in one short sentence.",
    "Answer briefly and truthfully.",
    "You are a governess of the year 1815. Be kind and exact.",
    "Answer the question and say no more.",
]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
NUMBERS = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
           "nineteen").split()
OPPOSITES = dict(happy="sad", warm="cold", long="short", rich="poor", early="late", young="old", loud="quiet", full="empty",
                 light="dark", fast="slow", high="low", open="closed", strong="weak", near="far", right="wrong", sweet="bitter")
NAMES = "Emma Jane Anne Fanny Harriet Elinor Marianne Catherine Frank Edward Henry George Charles William".split()


class Draws:
    """Numbers out of SHA-256 of a seed and a count, so that no version of Python changes them."""

    def __init__(self, seed):
        self.seed, self.count = seed, 0

    def below(self, limit):
        self.count += 1
        digest = hashlib.sha256(f"{self.seed}/{self.count}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % limit

    def one_of(self, options):
        return options[self.below(len(options))]


def sentences(folder):
    """Sentences of 6 to 22 plain words, each with the one behind it."""
    found = []
    for path in sorted((ROOT / "datasets/austen" / folder).glob("*.txt")):
        text = re.sub(r"\s+", " ", path.read_text(encoding="utf-8").replace("_", ""))
        parts = re.split(r"(?<=[.!?]) (?=[A-Z])", text)
        for this, following in zip(parts, parts[1:]):
            if all(re.fullmatch(r"[A-Za-z ,;']+[.!?]", part) and 6 <= len(part.split()) <= 22 for part in (this, following)):
                found.append((this, following))
    return found


def words_of(sentence):
    return re.findall(r"[A-Za-z']+", sentence)


def turn(draws, pool):
    """A question and its answer."""
    sentence, following = draws.one_of(pool)
    words = words_of(sentence)
    kind = draws.below(10)
    if kind == 0:
        return f"What comes after this? {sentence}", following
    if kind == 1:
        return f"What is the first word of this sentence? {sentence}", f"The first word is {words[0]}."
    if kind == 2:
        return f"What is the last word of this sentence? {sentence}", f"The last word is {words[-1]}."
    if kind == 3:
        day = draws.below(7)
        return f"Which day comes after {DAYS[day]}?", f"{DAYS[(day + 1) % 7]} comes after {DAYS[day]}."
    if kind == 4:
        month = draws.below(12)
        return f"Which month comes after {MONTHS[month]}?", f"{MONTHS[(month + 1) % 12]} comes after {MONTHS[month]}."
    if kind == 5:
        letter = draws.below(25)
        return f"Which letter comes after {LETTERS[letter]}?", f"The letter {LETTERS[letter + 1]} comes after {LETTERS[letter]}."
    if kind == 6:
        one = draws.below(10)
        other = draws.below(10)
        return f"What is {NUMBERS[one]} and {NUMBERS[other]}?", f"{NUMBERS[one].capitalize()} and {NUMBERS[other]} is {NUMBERS[one + other]}."
    if kind == 7:
        word = draws.one_of(sorted(OPPOSITES))
        return f"What is the opposite of {word}?", f"The opposite of {word} is {OPPOSITES[word]}."
    if kind == 8:
        name = draws.one_of(NAMES)
        return f"My name is {name}. Good morning!", f"Good morning, {name}!"
    word = draws.one_of(words)
    times = 2 + draws.below(2)
    return f"Say {word} {NUMBERS[times]} times.", " ".join([word] * times) + "."


def conversation(draws, pool):
    messages = []
    if draws.below(3) == 0:
        messages.append({"role": "system", "content": draws.one_of(SYSTEM)})
    for _ in range(1 + draws.below(3)):
        question, answer = turn(draws, pool)
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages}


def main():
    OUT.mkdir(exist_ok=True)
    for split, count in SIZES.items():
        draws, pool = Draws(split), sentences(split)
        lines, seen = [], set()
        while len(lines) < count:
            line = json.dumps(conversation(draws, pool), ensure_ascii=False)
            if line not in seen and len(line) < 1100:
                seen.add(line)
                lines.append(line)
        path = OUT / f"{split}.jsonl"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {count} conversations, {path.stat().st_size:,} bytes, "
              f"{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}")


if __name__ == "__main__":
    main()
