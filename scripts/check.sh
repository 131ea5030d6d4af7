#!/usr/bin/env bash
# Checks what a change must pass: scripts/check.sh [fmt|clippy|test|doc]... (none named: all, in this order).
# All in the release profile, so that dependencies compile once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() {
    printf '\n==> %s\n' "$*"
    "$@"
}

(($# > 0)) || set -- fmt clippy test doc
for check in "$@"; do
    case "$check" in
    fmt) step cargo fmt --check ;;
    clippy) step cargo clippy --locked --release --all-targets -- -D warnings ;;
    test) step cargo test --locked --release ;;
    doc) RUSTDOCFLAGS="-D warnings" step cargo doc --locked --release --no-deps ;;
    *)
        echo "error: \`$check\` is not a check: known are \`fmt\`, \`clippy\`, \`test\`, \`doc\`" >&2
        exit 2
        ;;
    esac
done
