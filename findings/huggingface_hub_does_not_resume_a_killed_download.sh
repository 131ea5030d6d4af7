#!/usr/bin/env bash
# huggingface_hub begins a file anew after its process was killed: what had arrived stays in the cache and is never used.
#
# Versions: huggingface_hub 2.4.0, hf_xet taken out (a plain HTTP server, no Xet). Seen on Linux, Python 3.11.
#
# Behaviour: a download is written to `blobs/<etag>.<random>.incomplete`, a name of its own for each process. A process that is killed
#   leaves its file; the next one asks for the whole file again, without a `Range`, under another random name, and leaves the old one where it is.
#   Within one process a connection that is cut is resumed.
#
# An expert would guess: `blobs/<etag>.incomplete` is resumed with `Range` by the next process, as in every version before 1.0; the
#   argument `resume_download` was deprecated because "downloads always resume".
#
# Output seen:
#   first process: killed; left: 1 file of the name <etag>.<random>.incomplete, of 10 MiB or more
#   second process: Range None; in blobs/ now: the blob, and the old .incomplete
#
# Why it matters: a model of 100 GB on a machine that vanishes is fetched from byte 0, and the disk keeps each attempt.
#
# Exit: 0 the behaviour is as stated, 1 it changed, 2 the packages could not be installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv" &&
  "$work/venv/bin/pip" install --quiet --disable-pip-version-check huggingface_hub==2.4.0 ||
  { echo "CANNOT TELL: the pinned packages could not be installed" >&2; exit 2; }
"$work/venv/bin/pip" uninstall --quiet --yes hf_xet 2>/dev/null || true
HF_HOME="$work/hf" "$work/venv/bin/python" - <<'PY'
import hashlib
import http.server
import os
import pathlib
import subprocess
import sys
import threading
import time

ID, COMMIT, NAME = "some/model", "0123456789abcdef0123456789abcdef01234567", "model.safetensors"
MIB = 1 << 20
content = bytes(range(256)) * (64 * MIB // 256)
etag = hashlib.sha256(content).hexdigest()
ranges, slow = [], threading.Event()
slow.set()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        asked = self.headers.get("Range")
        begin = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        for name, value in {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "X-Linked-Size": len(content), "X-Linked-Etag": f'"{etag}"',
                            "Accept-Ranges": "bytes", "Content-Length": len(content) - begin}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "HEAD":
            return
        if "/resolve/" in self.path:
            ranges.append(asked)
        half = len(content) // 2
        try:
            self.wfile.write(content[begin:half])
            self.wfile.flush()
            while slow.is_set():  # the rest comes only when the first process is gone
                time.sleep(0.05)
            self.wfile.write(content[max(begin, half):])
        except OSError:
            pass

    do_HEAD = do_GET


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
home = pathlib.Path(os.environ["HF_HOME"])
environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
fetch = [sys.executable, "-c", f"import huggingface_hub as hub; hub.hf_hub_download({ID!r}, {NAME!r})"]


def parts():
    return sorted(path for path in home.rglob("*.incomplete") if path.is_file())


first = subprocess.Popen(fetch, env=environment)
until = time.monotonic() + 60
while time.monotonic() < until and not any(path.stat().st_size > 8 * MIB for path in parts()):
    time.sleep(0.05)
first.kill()
first.wait()
left = parts()
print(f"first process: killed; left: {[(path.name.replace(etag, '<etag>'), path.stat().st_size) for path in left]}")
slow.clear()
subprocess.run(fetch, env=environment, check=True)
blobs = [path.name.replace(etag, "<etag>") for path in sorted(home.rglob("blobs/*"))]
print(f"second process: Range {ranges[-1]}; in blobs/ now: {blobs}")
is_as_stated = len(left) == 1 and left[0].name != f"{etag}.incomplete" and ranges == [None, None] and left[0].exists()
print("as stated" if is_as_stated else "CHANGED")
sys.exit(not is_as_stated)
PY
