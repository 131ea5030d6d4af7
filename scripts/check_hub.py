#!/usr/bin/env python3
"""Checks that alambic and `huggingface_hub` fill and read one cache: what the one has downloaded, the other uses without a network.

    python3 scripts/check_hub.py [--program target/release/alambic] [--model checkpoints/austen-teacher]

The version of `huggingface_hub` below is installed into a temporary environment; where PyPI cannot be reached, the script says so and
ends with exit code 0. The hub is a server on loopback that has the files of `--model`, with the paths and headers of the real one, but
none of Xet. `--command` are the arguments by which the program fetches the model of an id; it is to exit with code 0.
Prints each check; exit code 1 if one fails.
"""
import argparse
import hashlib
import http.server
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import urllib.parse
import venv

PINNED = "huggingface_hub==2.4.0"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
ID = "austen/teacher"
LARGE = (".safetensors", ".gguf")

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--program", default="target/release/alambic")
parser.add_argument("--command", nargs="*", default=["fetch", ID])
parser.add_argument("--model", default="checkpoints/austen-teacher", type=pathlib.Path)


def git_id(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def handler(files):
    """A server of one repository."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self, status, content=b"", **headers):
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def do_GET(self):
            path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
            entries = [(name, content, hashlib.sha256(content).hexdigest()) for name, content in files.items()]
            if path.startswith(f"/api/models/{ID}/revision/"):
                siblings = [
                    {"rfilename": name, "size": len(content), "blobId": git_id(content), **({"lfs": {"sha256": sha256, "size": len(content), "pointerSize": 130}} if name.endswith(LARGE) else {})}
                    for name, content, sha256 in entries
                ]
                answer = {"id": ID, "modelId": ID, "sha": COMMIT, "private": False, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings}
                return self.answer(200, json.dumps(answer).encode(), Content_Type="application/json")
            if path.startswith(f"/api/models/{ID}/tree/"):
                tree = [
                    {"type": "file", "path": name, "size": len(content), "oid": git_id(content), **({"lfs": {"oid": sha256, "size": len(content), "pointerSize": 130}} if name.endswith(LARGE) else {})}
                    for name, content, sha256 in entries
                ]
                return self.answer(200, json.dumps(tree).encode(), Content_Type="application/json")
            prefix = f"/{ID}/resolve/"
            name = path[len(prefix):].split("/", 1)[1] if path.startswith(prefix) else path.removeprefix("/cdn/")
            if name not in files:
                return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
            content = files[name]
            if name.endswith(LARGE) and path.startswith(prefix):
                etag = hashlib.sha256(content).hexdigest()
                return self.answer(302, X_Repo_Commit=COMMIT, X_Linked_Etag=f'"{etag}"', X_Linked_Size=str(len(content)), Location=f"/cdn/{urllib.parse.quote(name)}")
            return self.answer(200, content, X_Repo_Commit=COMMIT, ETag=f'"{git_id(content)}"')

        do_HEAD = do_GET

    return Handler


READ = """
import json, sys, huggingface_hub as hub
folder = hub.snapshot_download(sys.argv[1], local_files_only=True)
files = {name: hub.hf_hub_download(sys.argv[1], name, local_files_only=True) for name in sys.argv[2:]}
scan = hub.scan_cache_dir()
print(json.dumps({"folder": folder, "files": files, "warnings": [str(w) for w in scan.warnings], "repos": [r.repo_id for r in scan.repos]}))
"""
FILL = "import sys, huggingface_hub as hub; print(hub.snapshot_download(sys.argv[1]))"


def main():
    options = parser.parse_args()
    model = {str(path.relative_to(options.model)): path.read_bytes() for path in sorted(options.model.rglob("*")) if path.is_file()}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv/bin/python"
        installed = subprocess.run([python, "-m", "pip", "install", "--quiet", PINNED], capture_output=True, text=True)
        if installed.returncode != 0:
            print(f"skipped: {PINNED} cannot be installed: {installed.stderr.strip().splitlines()[-1:]}")
            return 0
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler(model))
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def run(arguments, home, **more):
            # Both have to put the variable's value in its place.
            environment = {**os.environ, "HUB_CHECK": str(folder), "HF_HOME": f"$HUB_CHECK/{home}", "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "NO_PROXY": "127.0.0.1", **more}
            return subprocess.run([str(argument) for argument in arguments], env=environment, capture_output=True, text=True)

        failed = []

        def check(what, holds, told=""):
            print(f"{'ok    ' if holds else 'FAILED'} {what}{'' if holds else ': ' + str(told)}")
            if not holds:
                failed.append(what)

        program = [pathlib.Path(options.program).absolute(), *options.command]
        ran = run(program, "ours")
        check("alambic downloads a model by its id", ran.returncode == 0, ran.stderr)
        read = [name for name in model if name.endswith((".json", ".safetensors"))]
        ran = run([python, "-c", READ, ID, *read], "ours", HF_HUB_OFFLINE="1")
        check("huggingface_hub uses it without a network", ran.returncode == 0, ran.stderr)
        if ran.returncode == 0:
            found = json.loads(ran.stdout)
            check("at the same commit", found["folder"].endswith(COMMIT), found["folder"])
            check("with the same bytes", all(pathlib.Path(path).read_bytes() == model[name] for name, path in found["files"].items()))
            check("and finds no fault in the cache", not found["warnings"] and found["repos"] == [ID], found["warnings"])
        before = {path: os.stat(path).st_ino for path in (folder / "ours").rglob("blobs/*")}
        ran = run([python, "-c", FILL, ID], "ours")
        kept = all(os.stat(path).st_ino == inode for path, inode in before.items())
        check("huggingface_hub downloads only the rest", ran.returncode == 0 and before and kept, ran.stderr)

        ran = run([python, "-c", FILL, ID], "theirs")
        check("huggingface_hub downloads the model", ran.returncode == 0, ran.stderr)
        ran = run(program, "theirs", HF_HUB_OFFLINE="1")
        check("alambic uses it without a network", ran.returncode == 0, ran.stderr)
        ran = run([program[0], "inspect", ID], "theirs", HF_HUB_OFFLINE="1")
        check("a command takes the id", ran.returncode == 0 and "checkpoint" in ran.stdout, ran.stderr)
        blobs = {path.name for path in (folder / "ours").rglob("blobs/*")}, {path.name for path in (folder / "theirs").rglob("blobs/*")}
        check("both name contents alike", blobs[0] == blobs[1], blobs)
        server.shutdown()
        return 1 if failed else 0


sys.exit(main())
