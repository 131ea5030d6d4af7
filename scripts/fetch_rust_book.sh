#!/usr/bin/env bash
# Gets The Rust Programming Language (MIT or Apache-2.0) into datasets/rust-book: scripts/fetch_rust_book.sh
# A text as unlike Austen as can be: docs/results.md measures on both. Chapters 1 to 16 are for training, the others to measure on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

source="https://github.com/rust-lang/book"
commit="917544888a55e4da7109bdba8c88c893c0da70f4"
dir="datasets/rust-book"

if [[ -d "$dir" ]]; then
    echo "$dir: there already"
    exit 0
fi
command -v git >/dev/null || {
    echo "error: git is not installed; it fetches the text" >&2
    exit 1
}
partial="$(mktemp -d datasets/.partial-XXXXXX)" # on the same disk, so that the last step is a rename
trap 'rm -rf "$partial"' EXIT
git -C "$partial" init --quiet book
git -C "$partial/book" fetch --quiet --depth 1 "$source" "$commit"
git -C "$partial/book" checkout --quiet FETCH_HEAD
mkdir -p "$partial/text/train" "$partial/text/validation"
for file in "$partial"/book/src/ch*.md; do
    name="$(basename "$file" .md)"
    part=train
    [[ "$name" < ch17 ]] || part=validation
    cp "$file" "$partial/text/$part/$name.txt"
done
cp "$partial"/book/{COPYRIGHT,LICENSE-APACHE,LICENSE-MIT} "$partial/text/"
mv "$partial/text" "$dir"
echo "$dir: $(find "$dir" -name '*.txt' | wc -l) chapters"
