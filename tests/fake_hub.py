"""A hub of data sets on this machine, in the protocol of huggingface.co: for tests that may not use the network."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def fake_hub(folder, gated=()):
    """Serves `<folder>/<owner>/<name>/...`; yields (address, requests seen as (method, path, Authorization header))."""
    seen = []

    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self, status, body=b"", **headers):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self):
            asked = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = unquote(urlsplit(self.path).path)
            seen.append((self.command, path, self.headers.get("Authorization")))
            parts = path.strip("/").removeprefix("api/").split("/")
            name = "/".join(parts[1:3])
            repo, rest = Path(folder, name), parts[3:]
            if parts[0] != "datasets" or not repo.is_dir():
                return self.answer(404, b"{}", X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
            if name in gated and rest[:1] == ["resolve"]:
                return self.answer(403, b"{}", X_Error_Code="GatedRepo", X_Error_Message="Access to this dataset is restricted.")
            if rest[:1] == ["resolve"]:
                file = repo / "/".join(rest[2:])
                if not file.is_file():
                    return self.answer(404, b"{}", X_Error_Code="EntryNotFound", X_Error_Message="Entry not found")
                data = file.read_bytes()
                return self.answer(200, data, X_Repo_Commit=COMMIT, ETag=f'"{hashlib.sha256(data).hexdigest()}"')
            files = [
                {"type": "file", "path": str(f.relative_to(repo)), "size": f.stat().st_size, "oid": hashlib.sha256(f.read_bytes()).hexdigest()}
                for f in sorted(repo.rglob("*")) if f.is_file()
            ]  # fmt: skip
            folders = [{"type": "directory", "path": str(f.relative_to(repo)), "oid": "0"} for f in sorted(repo.rglob("*")) if f.is_dir()]
            if rest[:1] == ["tree"]:
                below = "/".join(rest[2:])
                return self.json([e for e in files + folders if e["path"].startswith(below)])
            if rest[:1] == ["paths-info"]:
                wanted = json.loads(asked)["paths"] if asked[:1] == b"{" else [unquote(p.split("=")[1]) for p in asked.decode().split("&")]
                return self.json([e for e in files + folders if e["path"] in wanted])
            return self.json({"id": name, "sha": COMMIT, "siblings": [{"rfilename": e["path"]} for e in files], "private": False})

        do_HEAD = do_POST = do_GET

        def json(self, value):
            self.answer(200, json.dumps(value).encode(), Content_Type="application/json")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://localhost:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()
