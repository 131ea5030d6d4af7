#!/usr/bin/env bash
# Disturbs a run of the whole chain (capture, distil, prune, quantise, export) at random instants and resumes it, again
# and again: kill -9, SIGTERM, SIGINT, a full disk. In the end its bytes must be those of a run that nothing disturbed,
# with nothing left over and no panic told.
#
#   scripts/soak.sh [MINUTES [SEED]]      10 minutes and seed 1, if they are not given
#
# It takes target/release/alambic, or the program that ALAMBIC names. As root, the disk is a small tmpfs that is filled
# while the run writes to it; otherwise no file of the run may grow beyond a random size (ulimit -f).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

minutes=${1:-10}
seed=${2:-1}
alambic=$(realpath "${ALAMBIC:-target/release/alambic}")
novel=$PWD/datasets/austen/validation/persuasion.txt
RANDOM=$seed

work=$(mktemp -d)
disk=$work/disk
mkdir "$disk"
is_tmpfs=no
if [[ $(id -u) == 0 ]] && mount -t tmpfs -o size=24m tmpfs "$disk" 2>"$work/mount"; then
    is_tmpfs=yes
fi
cleanup() {
    [[ $BASHPID == $$ ]] || return # a child that a signal meets before it is the program
    [[ $is_tmpfs == no ]] || umount "$disk"
    rm -rf "$work"
}
trap cleanup EXIT

fail() {
    printf 'soak: seed %s: %s\n' "$seed" "$1" >&2
    sed 's/^/  | /' "$work/told" >&2
    exit 1
}

# Sets `drawn` to a whole number below a bound. (In a subshell the numbers would begin anew.)
draw() {
    drawn=$(((RANDOM << 15 | RANDOM) % $1))
}

# Sleeps for a random part of a number of milliseconds.
doze() {
    draw "$1"
    sleep "$((drawn / 1000)).$(printf '%03d' $((drawn % 1000)))"
}

cd "$work"
mkdir text
head -c 24000 "$novel" >text/train.txt
tail -c 6000 "$novel" >text/validation.txt
cat >teacher.yaml <<'YAML'
name: teacher
seed: 1
output: made
data: { train: [text/train.txt], validation: [text/validation.txt], sequence_length: 32, tokenizer: { train: { vocab_size: 300 } } }
student:
  architecture: { num_hidden_layers: 1, hidden_size: 16, num_attention_heads: 2, num_key_value_heads: 1, intermediate_size: 32 }
passes:
  - distill: { steps: 100, tokens_per_step: 256, learning_rate: 2e-2 }
export: { formats: [huggingface], dtype: f32 }
YAML
cat >chain.yaml <<'YAML'
name: chain
seed: 3
output: disk/out
data: { train: [text/train.txt], validation: [text/validation.txt], sequence_length: 32 }
teacher: { checkpoint: teacher, batch_size: 4 }
cache: { support: { top_k: 16 }, temperatures: [1.0, 2.0], rows_per_shard: 16 }
student:
  architecture: { num_hidden_layers: 2, hidden_size: 32, num_attention_heads: 2, num_key_value_heads: 1, intermediate_size: 64 }
passes:
  - distill: { steps: 120, tokens_per_step: 512, learning_rate: 1e-2, temperature: 2.0, save_every: 5, ema: 0.9, evaluate_every: 20, losses: { forward_kl: 0.5, cross_entropy: 0.5 } }
  - prune: { method: wanda, sparsity: 0.5 }
  - distill: { steps: 60, tokens_per_step: 512, learning_rate: 3e-3, save_every: 5, prune: { sparsity: 0.6, from_step: 5, to_step: 40, every: 5 } }
  - quantize: { method: qat, bits: 4, group_size: 16, learn_scales: true, steps: 60, tokens_per_step: 512, save_every: 5 }
export: { formats: [huggingface, compressed-tensors, gguf], dtype: f32 }
YAML

# Hashes of what two runs of one recipe must agree in. The rest holds seconds or paths.
results() {
    (cd "$1" && find . -type f \( -name 'student.safetensors' -o -name 'model*.safetensors' -o -name '*.gguf' \
        -o -name '*.parquet' -o -name 'manifest.json' -o -name 'config.json' -o -name 'tokenizer.json' \
        -o -name 'rows-*' \) -exec sha256sum {} + | sort -k 2)
}

"$alambic" run teacher.yaml >told 2>&1 || fail "the teacher was not made"
mkdir teacher
cp made/teacher/02-export-*/huggingface/* teacher/
began=$(date +%s%N)
nice "$alambic" run chain.yaml --set output=whole >told 2>&1 || fail "the undisturbed run failed"
whole_ms=$((($(date +%s%N) - began) / 1000000))
results whole >whole.sums
largest_kb=$(find whole -type f -printf '%k\n' | sort -n | tail -1)

kills=0 terms=0 ints=0 full=0 full_seen=0 resumed=0 chains=0 starts=0

# Checks a run that nothing disturbed to its end, and clears its folder for the next.
check_done() {
    results disk/out >out.sums
    cmp -s out.sums whole.sums || {
        diff whole.sums out.sums >told || true
        fail "the bytes differ from those of the undisturbed run"
    }
    find disk \( -name '.partial-*' -o -name '*unfinished-*' \) -print >told
    [[ ! -s told ]] || fail "something is left over"
    chains=$((chains + 1))
    rm -rf disk/out
}

# Starts the run in the background; `pid` is its process.
start() {
    starts=$((starts + 1))
    nice "$alambic" run chain.yaml >told 2>&1 &
    pid=$!
}

# Waits for the run. Its exit code must be one of those given.
ended() {
    local code=0
    wait "$pid" 2>/dev/null || code=$? # bash tells of a job that was killed
    if grep -q -e 'panicked' -e 'RUST_BACKTRACE' told; then fail "a panic (exit code $code)"; fi
    if grep -q 'resumed at' told; then resumed=$((resumed + 1)); fi
    case " $* " in
    *" $code "*) ;;
    *) fail "exit code $code, expected: $*" ;;
    esac
    last=$code
}

# A full disk, from a random instant on until the run has ended.
fill() {
    full=$((full + 1))
    if [[ $is_tmpfs == yes ]]; then
        start
        doze "$span_ms"
        cat /dev/zero >disk/filler 2>/dev/null || true
        ended 0 1 2
        rm -f disk/filler
    else
        draw "$largest_kb"
        starts=$((starts + 1))
        (
            trap '' XFSZ
            ulimit -f $((drawn + 1))
            exec nice "$alambic" run chain.yaml
        ) >told 2>&1 &
        pid=$!
        ended 0 1
    fi
    if [[ $last != 0 ]]; then
        full_seen=$((full_seen + 1))
        grep -q -e 'error\[io\]' -e 'error\[run/disk\]' -e 'error\[run/read-only\]' told || fail "not the message of a full disk"
    fi
}

# Stops a run at a random instant by a signal.
stop() {
    start
    doze "$span_ms"
    kill -s "$1" "$pid" 2>/dev/null || true
    shift
    ended "$@"
}

span_ms=$((whole_ms / 3 + 1))
end=$(($(date +%s) + minutes * 60))
while (($(date +%s) < end)); do
    draw 4
    case $drawn in
    0)
        kills=$((kills + 1))
        stop KILL 0 137
        ;;
    1)
        terms=$((terms + 1))
        stop TERM 0 130 143
        ;;
    2)
        ints=$((ints + 1))
        stop INT 0 130
        ;;
    3) fill ;;
    esac
    [[ $last != 0 ]] || check_done
done
start
ended 0
check_done

printf 'soak: %s minutes, seed %s: the whole chain takes %s ms undisturbed\n' "$minutes" "$seed" "$whole_ms"
printf 'soak: %s starts: %s kill -9, %s SIGTERM, %s SIGINT, %s full disks (tmpfs: %s), %s of them met by the run\n' \
    "$starts" "$kills" "$terms" "$ints" "$full" "$is_tmpfs" "$full_seen"
printf 'soak: %s runs went on from a training state; %s chains ended, all in the bytes of the undisturbed run\n' \
    "$resumed" "$chains"
