#!/usr/bin/env python3
"""Writes tests/golden/sources: small files of rows as other libraries write them, and in expected.json the rows that were meant.

    pip install datasets==5.2.0 pyarrow==26.0.1
    python scripts/make_source_golden.py

The folder `spark.parquet` is written by pyarrow under the names and with the types that Spark gives, not by Spark itself. What
is null stands for what is absent; `expected.json` has it dropped at every depth of columns, and kept in JSON text.
"""
import base64
import gzip
import json
import pathlib
import shutil

import datasets
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pyarrow.parquet.encryption

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "sources"
EXPECTED = {}

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a place.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"place": "Bath"}}}

# Each row has keys that another lacks, at several depths.
CHATS = [
    {
        "messages": [
            {"role": "user", "content": "How is the weather in Bath?"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "rain", "tool_call_id": "c1", "name": "weather"},
            {"role": "assistant", "content": "It rains.", "reasoning_content": "The tool says rain."},
        ],
        "tools": [WEATHER],
    },
    {"messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]},
    {"messages": [{"role": "user", "content": "Say a."}, {"role": "assistant", "content": "a", "train": False}, {"role": "assistant", "content": "b"}]},
]


def dropped(value):
    """The value without what is None, at every depth."""
    if isinstance(value, dict):
        return {key: dropped(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [dropped(inner) for inner in value]
    return value


def chat(row, **more):
    """The conversation of a row of messages."""
    messages = [dropped(message) for message in row["messages"]]
    unlearnt = [index for index, message in enumerate(messages) if message.pop("train", True) is False]
    return {"messages": messages, "tools": dropped(row.get("tools")), "variables": {}, "num_prompt": 0, "unlearnt": unlearnt} | more


def expect(name, documents):
    EXPECTED[name] = documents


def codecs():
    texts = [f"Line {number % 7} of a text that repeats itself." for number in range(40)]
    table = pa.table({"id": list(range(40)), "text": texts})
    for codec in ["none", "snappy", "zstd", "gzip", "brotli", "lz4"]:
        name = f"codec_{codec}.parquet"
        pq.write_table(table, OUT / name, compression=codec, row_group_size=25)
        expect(name, texts)


def structs():
    rows = datasets.Dataset.from_list(CHATS)
    rows.to_parquet(OUT / "nulls.parquet")
    expect("nulls.parquet", [chat(row) for row in CHATS])
    rows.save_to_disk(OUT / "saved")
    expect("saved", [chat(row) for row in CHATS])
    splits = datasets.DatasetDict({"train": rows.select([0, 1]), "test": rows.select([2])})
    splits.save_to_disk(OUT / "saved_dict")
    expect("saved_dict:train", [chat(row) for row in CHATS[:2]])
    expect("saved_dict:test", [chat(row) for row in CHATS[2:]])


def mixed():
    """Keys and types that differ between messages, which `load_dataset` turns to JSON text."""
    rows = [
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello", "tool_calls": [CALL]}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Look"}]}, {"role": "assistant", "content": "I do", "meta": {"score": None}}]},
    ]
    source = OUT / "mixed.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    expect("mixed.jsonl", [{**chat(row), "messages": [{k: v for k, v in message.items() if v is not None} for message in row["messages"]]} for row in rows])
    loaded = datasets.load_dataset("json", data_files=str(source), split="train", cache_dir=str(OUT / "cache"))
    loaded.to_parquet(OUT / "mixed.parquet")
    loaded.save_to_disk(OUT / "mixed_saved")
    shutil.rmtree(OUT / "cache")
    fields = pq.read_schema(OUT / "mixed.parquet")
    print("mixed.parquet:", fields.field("messages"), fields.field("messages").metadata)
    EXPECTED["mixed.parquet"] = EXPECTED["mixed_saved"] = EXPECTED["mixed.jsonl"]


def hub():
    """A folder as `push_to_hub` lays it out."""
    data = OUT / "hub" / "data"
    data.mkdir(parents=True)
    parts = {"train-00000-of-00002": ["one", "two"], "train-00001-of-00002": ["three"], "test-00000-of-00001": ["four"]}
    for name, texts in parts.items():
        datasets.Dataset.from_dict({"text": texts}).to_parquet(data / f"{name}.parquet")
    (OUT / "hub" / "README.md").write_text(
        "---\nlicense: cc0-1.0\ndataset_info:\n  features:\n  - name: text\n    dtype: string\nconfigs:\n- config_name: default\n  data_files:\n"
        "  - split: train\n    path: data/train-*\n  - split: test\n    path: data/test-*\n---\n# Words\n"
    )
    expect("hub:train", ["one", "two", "three"])
    expect("hub:test", ["four"])


def types():
    """Types that other writers use for the same rows, and columns that cannot be JSON and that nobody reads."""
    message = pa.struct([("role", pa.dictionary(pa.int32(), pa.string())), ("content", pa.large_string()), ("score", pa.float32()), ("n", pa.int8())])
    rows = [
        [{"role": "user", "content": "Hi", "score": 0.5, "n": 3}, {"role": "assistant", "content": "Hello", "score": None, "n": None}],
        [{"role": "user", "content": "Again", "score": None, "n": -1}, {"role": "assistant", "content": "Yes", "score": 1.25, "n": None}],
    ]
    table = pa.table(
        {
            "when": pa.array([0, 1], pa.timestamp("us")),
            "picture": pa.array([b"\xff", None], pa.binary()),
            "price": pa.array([None, None], pa.decimal128(5, 2)),
            "messages": pa.array(rows, pa.large_list(message)),
            "chat_template_kwargs": pa.array([[("enable_thinking", False)], None], pa.map_(pa.string(), pa.bool_())),
        }
    )
    expected = [chat({"messages": row}) for row in rows]
    expected[0]["variables"] = {"enable_thinking": False}
    pq.write_table(table, OUT / "types.parquet")
    with pa.ipc.new_stream(OUT / "types.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    with pa.ipc.new_file(OUT / "types_file.arrow", table.schema) as writer:
        writer.write_table(table)
    for name in ["types.parquet", "types.arrow", "types_file.arrow"]:
        expect(name, expected)
    views = pa.table({"text": pa.array(["a short one", "one that is longer than twelve bytes", None], pa.string_view())})
    with pa.ipc.new_stream(OUT / "views.arrow", views.schema) as writer:
        writer.write_table(views)
    expect("views.arrow", ["a short one", "one that is longer than twelve bytes"])
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_file(OUT / "packed_inside.arrow", views.schema, options=options) as writer:
        writer.write_table(pa.table({"text": pa.array(["words " * 50], pa.string_view())}))


def spark():
    folder = OUT / "spark.parquet"
    folder.mkdir()
    schema = pa.schema(
        [
            ("prompt", pa.string()),
            ("completion", pa.string()),
            ("chat_template_kwargs", pa.map_(pa.string(), pa.string())),
        ]
    )
    parts = [("Two and two", " are four."), ("Three and three", " are six.")]
    for number, (prompt, completion) in enumerate(parts):
        table = pa.table({"prompt": [prompt], "completion": [completion], "chat_template_kwargs": [None]}, schema=schema)
        name = f"part-0000{number}-5d1f0d2c-7a0e-4a55-9f6b-3a1d6f1c2b44-c000.snappy.parquet"
        pq.write_table(table, folder / name, compression="snappy", data_page_version="1.0", store_schema=False)
    (folder / "_SUCCESS").write_bytes(b"")
    (folder / "._SUCCESS.crc").write_bytes(b"crc\0")
    expect("spark.parquet", [{"prompt": prompt, "completion": completion} for prompt, completion in parts])


class NoKeys(pq.encryption.KmsClient):
    """Keys of no secret: the files are there to be refused."""

    def __init__(self, _config):
        super().__init__()

    def wrap_key(self, key_bytes, master_key_identifier):
        return base64.b64encode(key_bytes)

    def unwrap_key(self, wrapped_key, master_key_identifier):
        return base64.b64decode(wrapped_key)


def encrypted():
    """Files whose footer, or whose column alone, is encrypted."""
    table = pa.table({"id": [1], "text": ["words"]})
    for name, has_plain_footer in [("encrypted.parquet", False), ("encrypted_column.parquet", True)]:
        config = pq.encryption.EncryptionConfiguration("footer", column_keys={"column": ["text"]}, plaintext_footer=has_plain_footer)
        factory = pq.encryption.CryptoFactory(NoKeys)
        properties = factory.file_encryption_properties(pq.encryption.KmsConnectionConfig(), config)
        pq.write_table(table, OUT / name, encryption_properties=properties, compression="none")


def packed():
    lines = "".join(json.dumps({"text": f"text {number}"}) + "\n" for number in range(3)).encode()
    texts = [f"text {number}" for number in range(3)]
    # Two members, as `cat a.gz b.gz` makes them.
    first, second = lines[:20], lines[20:]
    (OUT / "packed.jsonl.gz").write_bytes(gzip.compress(first, mtime=0) + gzip.compress(second, mtime=0))
    with pa.CompressedOutputStream(str(OUT / "packed.jsonl.zst"), "zstd") as out:
        out.write(lines)
    (OUT / "packed.json.gz").write_bytes(gzip.compress(json.dumps([{"text": text} for text in texts], indent=1).encode(), mtime=0))
    (OUT / "packed.txt.gz").write_bytes(gzip.compress(b"one text\n", mtime=0))
    for name in ["packed.jsonl.gz", "packed.jsonl.zst", "packed.json.gz"]:
        expect(name, texts)
    expect("packed.txt.gz", ["one text\n"])


def main():
    datasets.disable_progress_bars()
    if OUT.exists():
        shutil.rmtree(OUT)
    OUT.mkdir(parents=True)
    for make in [codecs, structs, mixed, hub, types, spark, encrypted, packed]:
        make()
    EXPECTED["versions"] = {"datasets": datasets.__version__, "pyarrow": pa.__version__}
    (OUT / "expected.json").write_text(json.dumps(EXPECTED, indent=1) + "\n")


if __name__ == "__main__":
    main()
