"""A hub in memory that speaks the routes that ``huggingface_hub`` uses to commit, list and read a repository.

Files that end in .json or .md are committed as text, all others by Git LFS, as the hub does with large and binary ones.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TEXT = (".json", ".md")


class Hub:
    """``repositories`` maps "models/owner/name" to its files; ``uploads`` and ``downloads`` are
    those of large files, in order."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.objects: dict[str, bytes] = {}  # large files by their SHA-256
        self.address = ""
        self.uploads: list[str] = []
        self.downloads: list[str] = []
        self.refuses_after: int | None = None  # so many uploads

    def answer(self, method: str, path: str, body: bytes) -> Any:
        """JSON to send back, bytes of a file, or None for a file or repository that there is not."""
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('type', 'model')}s/{asked['organization']}/{asked['name']}"
            self.repositories.setdefault(name, {})
            self.private |= {name} if asked.get("visibility") == "private" else set()
            return {"url": f"https://huggingface.co/{name.removeprefix('models/')}"}
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if method == "PUT":
            if self.refuses_after is not None and len(self.uploads) >= self.refuses_after:
                return ConnectionError
            self.objects[path.rpartition("/")[2]] = body
            self.uploads.append(path)
            return {}
        if found := re.fullmatch(r"/(?:(datasets)/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            objects = json.loads(body)["objects"]
            for each in objects:
                if each["oid"] not in self.objects:
                    each["actions"] = {"upload": {"href": f"{self.address}/lfs/{each['oid']}"}}
            return {"transfer": "basic", "objects": objects}
        if found := re.fullmatch(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            content = self.repositories.get(f"{found[1] or 'models'}/{found[2]}", {}).get(found[3])
            if content is not None and not found[3].endswith(TEXT):
                self.downloads.append(path)
            return content
        found = re.fullmatch(r"/api/((?:models|datasets)/[^/]+/[^/]+)(?:/(\w[\w-]*)/[^/]+(?:/(.*))?)?", path)
        files = self.repositories.get(found[1]) if found else None
        if found is None or files is None:
            return None
        if found[2] == "preupload":
            asked = json.loads(body)["files"]
            mode = {each["path"]: "regular" if each["path"].endswith(TEXT) else "lfs" for each in asked}
            return {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in mode.items()]}
        if found[2] == "commit":
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = self.objects[value["oid"]]
            commit = f"https://huggingface.co/{found[1].removeprefix('models/')}/commit/{'1' * 40}"
            return {"commitUrl": commit, "commitOid": "1" * 40, "success": True}
        if found[2] == "tree":
            return self.tree(files, (found[3] or "").strip("/"))
        return {"id": found[1].partition("/")[2], "sha": "1" * 40, "siblings": [], "private": True, "tags": []}

    def tree(self, files: dict[str, bytes], folder: str) -> list[dict[str, Any]]:
        """Every file and folder below a folder."""
        names = [name for name in files if name.startswith(f"{folder}/" if folder else "")]
        folders = {name.rpartition("/")[0] for name in names if "/" in name}
        listed: list[dict[str, Any]] = [{"type": "directory", "path": each, "oid": "0" * 40} for each in folders]
        for name in names:
            row: dict[str, Any] = {"type": "file", "path": name, "oid": "0" * 40, "size": len(files[name])}
            if not name.endswith(TEXT):
                row["lfs"] = {"oid": hashlib.sha256(files[name]).hexdigest(), "size": row["size"], "pointerSize": 100}
            listed.append(row)
        return listed


@contextmanager
def serve() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            found = hub.answer(self.command, self.path.partition("?")[0], body)
            refused = 404 if found is None else 403 if found is ConnectionError else 200
            content = found if isinstance(found, bytes) else b"" if refused != 200 else json.dumps(found).encode()
            self.send_response(refused)
            if refused == 404:
                self.send_header("X-Error-Code", "EntryNotFound" if "/resolve/" in self.path else "RepoNotFound")
            kind = "application/octet-stream" if isinstance(found, bytes) else "application/json"
            for key, value in (("Content-Type", kind), ("X-Repo-Commit", "1" * 40), ("ETag", '"1"')):
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_HEAD = handle_any

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield hub
    server.shutdown()
    server.server_close()
