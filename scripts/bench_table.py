#!/usr/bin/env python3
"""One table of everything that scripts/bench.sh measured: bench_table.py FOLDER ALAMBIC, with the folder of its JSON files and the program."""
import json
import os
import pathlib
import statistics
import sys

import bench_products
import benches

HEAD = ["", "alambic f32", "PyTorch f32", "ratio", "alambic bf16", "PyTorch bf16", "ratio", "of FMA f32", "of vdpbf16ps"]
UNITS = [("tokens_per_sec", 0, "tokens/s"), ("cpu_secs_per_step", 2, "processor s a step"), ("peak_mib", 0, "peak MiB")]


def spread(ratios):
    ratios = sorted(ratios)
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def pair_of(runs, key, digits):
    """Medians of both programs, and the ratios of the pairs."""
    if runs is None:
        return ["", "", ""]
    ours, theirs = [[run[key] for run in program] for program in runs.values()]
    return [f"{statistics.median(ours):,.{digits}f}", f"{statistics.median(theirs):,.{digits}f}", spread(a / b for a, b in zip(ours, theirs))]


def rows_of_runs(what, f32, bf16):
    some = next(iter((f32 or bf16).values()))[0]
    return [[f"{what}: {unit}", *pair_of(f32, key, digits), *pair_of(bf16, key, digits), "", ""] for key, digits, unit in UNITS if key in some]


def rows_of_products(pairs):
    """A line for each product; a second one where the machine has a second order of sums in bf16."""
    rows, f32 = [], None
    for row in bench_products.compared(pairs):
        cells = [f"{row['alambic']:,.0f}", f"{row['torch']:,.0f}", spread(row["ratios"])]
        share = "" if row["share"] is None else f"{row['share']:.0%}"
        name = f"product, {row['product']}, {row['shape']}: GFLOP/s"
        if row["arithmetic"] == "f32":
            rows.append([name, *cells, "", "", "", share, ""])
        elif rows[-1][4]:
            rows.append([f"{name}, {row['arithmetic']}", "", "", "", *cells, "", share])
        else:
            rows[-1][4:] = [*cells, rows[-1][7], share]
    return rows


def main(folder, alambic):
    def read(name):
        path = folder / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else None

    rows = []
    pairs = read("products")
    if pairs:
        peaks = pairs[-1]["alambic"]["peak"]
        for threads, which in [("1", "one thread"), ("all", "all threads")]:
            cells = [f"{peaks[name][threads]:,.0f}" if peaks.get(name, {}).get(threads) else "" for name in ["f32", "bf16/vdpbf16ps"]]
            rows.append([f"instruction alone, {which}: GFLOP/s", cells[0], "", "", cells[1], *[""] * 4])
        rows += rows_of_products(pairs)
    training = [read("train-f32"), read("train-bf16")]
    for model in next((runs for runs in training if runs), {}):
        rows += rows_of_runs(f"training, {model}", *[runs and runs[model] for runs in training])
    for name, what in [("capture", "capture, random weights"), ("checkpoint", "capture, whole stage")]:
        runs = [read(f"{name}-f32"), read(f"{name}-bf16")]
        if any(runs):
            rows += rows_of_runs(what, *runs)
    decode = read("decode")
    if decode:
        for key, what in [("read_per_sec", "read on all threads"), ("decoded_per_sec_on_one_core", "decoded on one core")]:
            rows.append([f"cache, {what}: positions/s", f"{decode[key]:,.0f}", *[""] * 7])

    import torch
    import transformers

    threads = pairs[-1]["alambic"]["threads"] if pairs else os.cpu_count()
    print(f"{benches.alambic_version(alambic)}; PyTorch {torch.__version__}, transformers {transformers.__version__}; {benches.processor()}, {threads} threads.")
    print("Medians; a ratio is alambic / PyTorch, the median of the pairs with the least and the greatest. Of seconds and MiB, less is better.\n")
    widths = [max(len(row[at]) for row in [HEAD, *rows]) for at in range(len(HEAD))]
    line = lambda cells: "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths)) + " |"
    print(line(HEAD))
    print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    for row in rows:
        print(line(row))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*map(pathlib.Path, sys.argv[1:]))
