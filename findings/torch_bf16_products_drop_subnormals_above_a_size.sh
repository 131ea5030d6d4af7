#!/usr/bin/env bash
# A bf16 product of torch on a CPU takes subnormal numbers as zero if it is large, and as what they are if it is small.
#
# Versions: torch 2.15.0, oneDNN inside. Seen on Linux, Python 3.11, an AMD EPYC (Zen 5) with AVX-512-BF16, one thread.
#
# Behaviour: torch.mm and torch.nn.functional.linear of bf16 matrices give products of more than 16 * 16 * 16 multiplications to
#   oneDNN. Where the processor has AVX-512-BF16, oneDNN multiplies with vdpbf16ps, which reads subnormal bf16 numbers (below
#   1.2e-38) as zero and writes none, whatever torch.set_flush_denormal says (it is off). Smaller products, products of a row and
#   a matrix' column one by one (torch.dot), element-wise products, and every product under ONEDNN_MAX_CPU_ISA=AVX512_CORE
#   keep subnormal numbers.
#
# An expert would guess: the shape of a product and the kernel that computes it change the last bits of a result. Subnormal
#   numbers count unless torch.set_flush_denormal(True) was called.
#
# Output seen (all numbers of the left matrix 1e-39, of the right one 1e30, in bf16):
#   16 x 16 x 16   torch.mm 1.62e-08   (f32 1.62e-08)
#   32 x 32 x 32   torch.mm 0          (f32 3.23e-08)   torch.dot of the same row and column 3.24e-08
#   32 x 32 x 32   torch.mm 3.24e-08   under ONEDNN_MAX_CPU_ISA=AVX512_CORE
#
# Why it matters to people who compare kernels: a twin of a bf16 product in plain code has other bits unless it drops subnormal
#   numbers, too; and a test on a small matrix takes another path than the model.
#
# Exit: 0 the behaviour is as stated, 1 it changed, 2 the packages could not be installed or the processor has no AVX-512-BF16.
set -euo pipefail
grep -qw avx512_bf16 /proc/cpuinfo || { echo "CANNOT TELL: this processor has no AVX-512-BF16" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv" &&
  "$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy ||
  { echo "CANNOT TELL: the pinned packages could not be installed" >&2; exit 2; }
cat >"$work/products.py" <<'PY'
import torch

torch.set_num_threads(1)
for size in (16, 32):
    tiny = torch.full((size, size), 1e-39, dtype=torch.bfloat16)
    large = torch.full((size, size), 1e30, dtype=torch.bfloat16)
    product = torch.mm(tiny, large)[0, 0].item()
    exact = torch.mm(tiny.float(), large.float())[0, 0].item()
    dot = torch.dot(tiny[0], large[:, 0].contiguous()).item()
    print(size, product != 0, exact != 0, dot != 0)
PY
seen=$(env -u ONEDNN_MAX_CPU_ISA "$work/venv/bin/python" "$work/products.py")
plain=$(ONEDNN_MAX_CPU_ISA=AVX512_CORE "$work/venv/bin/python" "$work/products.py")
printf 'size, product kept, f32 kept, dot kept\n%s\nwithout AVX-512-BF16:\n%s\n' "$seen" "$plain"
[[ $seen == $'16 True True True\n32 False True True' && $plain == $'16 True True True\n32 True True True' ]] ||
  { echo "CHANGED" >&2; exit 1; }
echo "AS STATED"
