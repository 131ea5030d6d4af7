#!/usr/bin/env bash
# Writes the man pages and shell completions that a wheel installs below `share/`, out of a binary that is already built.
#
#   scripts/wheel_data.sh [BINARY]     default: target/release/alambic
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
binary=${1:-target/release/alambic}
share=packaging/alambic.data/data/share

rm -rf "$share/man" "$share/bash-completion" "$share/zsh" "$share/fish"
mkdir -p "$share"/{bash-completion/completions,zsh/site-functions,fish/vendor_completions.d}
"$binary" man "$share/man/man1"
"$binary" completions bash >"$share/bash-completion/completions/alambic"
"$binary" completions zsh >"$share/zsh/site-functions/_alambic"
"$binary" completions fish >"$share/fish/vendor_completions.d/alambic.fish"
