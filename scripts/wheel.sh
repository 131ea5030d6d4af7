#!/usr/bin/env bash
# Builds the wheel that others install: for any Linux with glibc 2.28 or newer (manylinux_2_28), by zig as the linker.
#
#   scripts/wheel.sh            wheel in target/wheels
#
# Needs python3 with venv; maturin and zig come from PyPI into target/wheel-venv. The wheel has the CPU device only: a GPU
# build is linked against the drivers of its own machine, so build that one from the source (docs/gpu.md).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=target/wheel-venv
[ -x "$venv/bin/maturin" ] || { python3 -m venv "$venv" && "$venv/bin/pip" install --quiet 'maturin[zig]>=1.10,<2'; }
export PATH="$PWD/$venv/bin:$PATH"

cargo build --release --locked
scripts/wheel_data.sh
maturin build --release --zig --compatibility manylinux_2_28
ls -l target/wheels
