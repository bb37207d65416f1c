"""A small hub on this machine, in the protocol of huggingface.co: what the real client library says and does, without a network."""

import hashlib
import http.server
import json
import threading
from contextlib import contextmanager

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def serve(repositories, asked):
    """A server of `repositories`, {id: {file: bytes} or an error code of the hub}; `asked` gets each (method, path)."""

    class Hub(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def answer(self, status, body=b"", **headers):
            self.send_response(status)
            for name, value in ({"Content-Length": len(body)} | {k.replace("_", "-"): v for k, v in headers.items()}).items():
                self.send_header(name, str(value))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = self.path.split("?")[0].strip("/")
            asked.append((self.command, path))
            parts = path.removeprefix("api/models/").split("/")
            source = "/".join(parts[:2])
            files = repositories.get(source, "RepoNotFound")
            if isinstance(files, str):
                status = {"GatedRepo": 403, "busy": 409}.get(files, 404)
                return self.answer(status, X_Error_Code=files)
            if parts[2:4] == ["revision", "main"] or parts[2:4] == ["revision", COMMIT]:
                return self.answer(200, json.dumps({"id": source, "sha": COMMIT, "siblings": [{"rfilename": n} for n in files]}).encode())
            if parts[2] == "tree" and parts[3] in ("main", COMMIT):
                rows = [{"type": "file", "path": n, "size": len(b), "oid": hashlib.sha1(b).hexdigest()} for n, b in files.items()]
                return self.answer(200, json.dumps(rows).encode())
            if parts[2] == "resolve" and "/".join(parts[4:]) in files:
                body = files["/".join(parts[4:])]
                return self.answer(200, body, ETag=f'"{hashlib.sha1(body).hexdigest()}"', X_Repo_Commit=COMMIT)
            return self.answer(404, X_Error_Code="RevisionNotFound" if parts[2] in ("tree", "revision") else "EntryNotFound")

    return http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)


@contextmanager
def hub(monkeypatch, cache, repositories):
    """Point the client library at a local hub inside the block; yields what it was asked."""
    from huggingface_hub import constants

    asked = []
    server = serve(repositories, asked)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    end = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", end)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", end + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    try:
        yield asked
    finally:
        server.shutdown(), server.server_close()
