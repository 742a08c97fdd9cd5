"""Serve checkpoints as the model hub does: over HTTP, with commits, from this machine."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """Hold repositories by name: commits in the order of their upload, the last of which is `main`.

    `asked` lists the requests. `refuses` names a status that it answers instead, so many times as `times`
    says (None: always). Once all its files have been downloaded, it makes the `upload` (a name and a
    folder), and refuses everything with 429 from then on.
    """

    commits: dict[str, dict[str, Path]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    refuses: int | None = None
    times: int | None = None
    upload: tuple[str, Path] | None = None
    waiting: set[tuple[str, str]] = field(default_factory=set)  # files that nobody has downloaded yet
    url: str = ""

    def add(self, name: str, folder: Path) -> str:
        """Upload a folder as a new commit; returns the commit."""
        number = len(self.commits.get(name, {}))
        commit = hashlib.sha1(f"{name} {number}".encode()).hexdigest()
        self.commits.setdefault(name, {})[commit] = folder
        self.waiting |= {(name, file.name) for file in folder.iterdir()}
        return commit

    @property
    def resolved(self) -> list[str]:
        """The names that somebody asked the commit of."""
        lines = [line for line in self.asked if "/api/models/" in line and "/tree/" not in line]
        return ["/".join(line.split("/")[3:5]) for line in lines]

    def environment(self, home: Path) -> dict[str, str]:
        """Return the variables with which a process asks this hub, with a cache of its own."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "NO_PROXY": "*"}

    def use(self, monkeypatch: Any, cache: Path) -> None:
        """Let this process ask this hub, with a cache of its own."""
        constants = "huggingface_hub.constants"
        template = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(f"{constants}.ENDPOINT", self.url)
        monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(cache))
        monkeypatch.setenv("NO_PROXY", "*")


@contextmanager
def serving() -> Iterator[Hub]:
    """Start a hub on a free port of this machine."""
    hub = Hub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.asked.append(f"{self.command} {path}")
        if hub.refuses is not None and hub.times != 0:
            hub.times = None if hub.times is None else hub.times - 1
            return self._send(hub.refuses, b"not now", {"Retry-After": "0"})
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            name = "/".join(parts[2:4])
            commit = self._commit(name, parts[5] if len(parts) > 5 else "main")
            if commit is None:
                return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            files = sorted(hub.commits[name][commit].iterdir())
            if parts[4:5] == ["tree"]:
                lines = [
                    {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": _etag(f)} for f in files
                ]
                return self._send(200, json.dumps(lines).encode())
            about = {"id": name, "sha": commit, "siblings": [{"rfilename": f.name} for f in files]}
            return self._send(200, json.dumps(about).encode())
        if len(parts) < 5:
            return self._send(404, b"")
        name, revision, file = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        commit = self._commit(name, revision)
        if commit is None or not (hub.commits[name][commit] / file).is_file():
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        place = hub.commits[name][commit] / file
        self._send(200, place.read_bytes(), {"X-Repo-Commit": commit, "ETag": f'"{_etag(place)}"'})
        if self.command == "GET" and hub.upload:
            hub.waiting -= {(name, file)}
            if not hub.waiting:
                hub.add(*hub.upload)
                hub.refuses, hub.upload = 429, None
        return None

    def _commit(self, name: str, revision: str) -> str | None:
        commits = self.hub.commits.get(name, {})
        return [*commits][-1] if revision == "main" and commits else revision if revision in commits else None

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()
