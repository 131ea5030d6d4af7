"""Where the benches of this repository are, and what they run on; for the scripts that compare them with PyTorch."""
import pathlib
import platform
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def newest(name):
    """The newest build of a bench."""
    found = [path for path in (ROOT / "target/release/deps").glob(f"{name}-*") if not path.suffix]
    if not found:
        sys.exit(f"error: no bench: run `cargo build --release --bench {name}`, or name one with --binary")
    return max(found, key=lambda path: path.stat().st_mtime)


def processor():
    """The name that the processor gives itself."""
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def alambic_version(binary):
    return subprocess.run([binary, "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
