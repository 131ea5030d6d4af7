#!/usr/bin/env bash
# Speed of alambic beside PyTorch on this machine, in f32 and in bf16: products, training steps, capture; and how fast a
# cache is read. It builds the benches, runs both programs in turn and prints one table.
#
#   scripts/bench.sh [--python FILE] [--pairs N] [--threads N] [--models NAME...] [--checkpoint FOLDER [--gguf NAME]] [--quick]
#
#   --python      a Python that has torch and transformers (python3)
#   --pairs       runs of each program that count, after one that does not (3)
#   --threads     threads of each program (all cores)
#   --models      students of scripts/bench_train.py (large)
#   --checkpoint  a Hugging Face folder: the whole capture stage of this model is measured, too; with --gguf a file in it
#   --quick       one pair of a few steps and rows, to see that everything runs; its figures mean nothing
#
# It takes about a quarter of an hour on two cores. Times mean something only on an idle machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

python=python3
pairs=3
threads=$(nproc)
models=(large)
checkpoint=()
steps=5
rows=64
repeats=7
while (($# > 0)); do
    option=$1
    shift
    [[ $option == --quick || $# -gt 0 ]] || die "$option needs a value"
    case "$option" in
    --python) python=$1 ;;
    --pairs) pairs=$1 ;;
    --threads) threads=$1 ;;
    --checkpoint) checkpoint=(--checkpoint "$1" "${checkpoint[@]}") ;;
    --gguf) checkpoint+=(--gguf "$1") ;;
    --models)
        models=()
        while (($# > 0)) && [[ $1 != --* ]]; do
            models+=("$1")
            shift
        done
        continue
        ;;
    --quick)
        pairs=1 steps=1 rows=4 repeats=1
        continue
        ;;
    *) die "\`$option\` is no option: known are --python, --pairs, --threads, --models, --checkpoint, --gguf and --quick" ;;
    esac
    shift
done

"$python" -c "import torch, transformers" 2>/dev/null ||
    die "\`$python\` has no torch or no transformers: python3 -m venv venv && venv/bin/pip install torch transformers gguf, then --python venv/bin/python"

cargo build --locked --release --bin alambic --bench capture --bench decode --bench gemm --bench train_step

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Tables of the parts go to stderr, where they can be watched.
measure() {
    local name=$1 script=$2
    shift 2
    printf '\n==> %s\n' "$name" >&2
    "$python" "scripts/$script" --threads "$threads" --json "$work/$name.json" "$@" >&2
}
measure products bench_products.py --pairs "$pairs" --repeats "$repeats"
for precision in f32 bf16; do
    bf16=()
    [[ $precision == f32 ]] || bf16=(--bf16)
    measure "train-$precision" bench_train.py --models "${models[@]}" --steps "$steps" --repeats "$pairs" "${bf16[@]}"
    measure "capture-$precision" bench_capture.py --rows "$rows" --repeats "$pairs" "${bf16[@]}"
    if ((${#checkpoint[@]} > 0)); then
        measure "checkpoint-$precision" bench_capture.py "${checkpoint[@]}" --rows "$rows" --repeats "$pairs" "${bf16[@]}"
    fi
done
newest=$("$python" -c "import sys; sys.path.insert(0, 'scripts'); import benches; print(benches.newest('decode'))")
"$newest" --threads "$threads" >"$work/decode.json"
"$python" scripts/bench_table.py "$work" target/release/alambic
