"""A Hub on the loopback interface: one data set repository out of a folder, a log of its requests, and faults on
demand."""

import hashlib
import json
import re
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass(frozen=True)
class Request:
    """One request and its answer: `body_bytes` is what was sent, less than promised where the connection was cut."""

    method: str
    path: str
    status: int
    body_bytes: int


@dataclass
class _Fault:
    method: str
    pattern: str
    times: int
    status: int | None  # None: the connection is cut in the middle of the body
    code: str


class LoopbackHub:
    """Serve `repository` at the commits of `commits`, each a folder of files; inside `with`, it listens on `url`.

    branches: the commit of each branch; a test may move one while the server runs.
    """

    def __init__(self, repository: str, commits: dict[str, Path], branches: dict[str, str]):
        self.repository, self.commits, self.branches = repository, commits, branches
        self.requests: list[Request] = []
        self._faults: list[_Fault] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "LoopbackHub":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fail(self, method: str, pattern: str, status: int, times: int = 10**9, code: str = "") -> None:
        """Answer the next requests whose path matches with an error; `code` is the Hub's own name for it."""
        self._faults.append(_Fault(method, pattern, times, status, code))

    def cut(self, pattern: str, times: int = 1) -> None:
        """Close the connection in the middle of the next bodies whose path matches."""
        self._faults.append(_Fault("GET", pattern, times, None, ""))

    def paths(self, pattern: str = "") -> list[str]:
        """Return the paths asked for that match."""
        return [request.path for request in self.requests if re.search(pattern, request.path)]

    def commit_of(self, revision: str) -> str | None:
        """Return the commit behind a branch or a commit."""
        return self.branches.get(revision, revision if revision in self.commits else None)

    def fault_for(self, method: str, path: str) -> _Fault | None:
        """Use up one of the faults that wait for this request."""
        with self._lock:
            for fault in self._faults:
                if fault.times and fault.method == method and re.search(fault.pattern, path):
                    fault.times -= 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *_) -> None:
        pass

    def _answer(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())
        address = urlsplit(self.path)
        self.route = unquote(address.path)
        fault = self.hub.fault_for(self.command, self.route)
        if fault and fault.status:
            return self._send(fault.status, b"", {"X-Error-Code": fault.code} if fault.code else {})
        self.is_cut = fault is not None
        name = re.escape(self.hub.repository)
        for pattern, action in (
            (rf"/api/datasets/{name}(?:/revision/(?P<revision>.+))?", self._describe),
            (rf"/api/datasets/{name}/tree/(?P<revision>[^/]+)/?(?P<path>.*)", self._list),
            (rf"/api/datasets/{name}/paths-info/(?P<revision>[^/]+)", self._find),
            (rf"/datasets/{name}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", self._serve),
        ):
            if match := re.fullmatch(pattern, self.route):
                found = match.groupdict()
                commit = self.hub.commit_of(found.pop("revision") or "main")
                if commit is None:
                    return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
                return action(commit, {**parse_qs(address.query), **form}, **found)
        self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

    def _describe(self, commit: str, _query: dict) -> None:
        siblings = [{"rfilename": path} for path in self._files(commit)]
        self._send_json({"id": self.hub.repository, "sha": commit, "siblings": siblings})

    def _list(self, commit: str, query: dict, path: str) -> None:
        below = path and path + "/"
        files = {name for name in self._files(commit) if name.startswith(below)}
        entries = files | {str(parent) for name in files for parent in Path(name).parents} - {".", path}
        entries = {name for name in entries if name.startswith(below)}
        if "true" not in map(str.lower, query.get("recursive", [])):
            entries = {name for name in entries if "/" not in name[len(below) :]}
        if not entries:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        self._send_json([self._entry(commit, name) for name in sorted(entries)])

    def _find(self, commit: str, query: dict) -> None:
        root = self.hub.commits[commit]
        self._send_json([self._entry(commit, name) for name in query["paths"] if (root / name).exists()])

    def _serve(self, commit: str, _query: dict, path: str) -> None:
        file = self.hub.commits[commit] / path
        if not file.is_file():
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        content = file.read_bytes()
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": commit,
            "Accept-Ranges": "bytes",
        }
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            return self._send(200, content, headers)
        first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self._send(206, content[first : last + 1], headers)

    def _files(self, commit: str) -> list[str]:
        root = self.hub.commits[commit]
        return sorted(str(file.relative_to(root)) for file in root.rglob("*") if file.is_file())

    def _entry(self, commit: str, name: str) -> dict:
        file = self.hub.commits[commit] / name
        identity = hashlib.sha1(f"{commit}/{name}".encode()).hexdigest()
        if file.is_dir():
            return {"type": "directory", "oid": identity, "size": 0, "path": name}
        return {"type": "file", "oid": identity, "size": file.stat().st_size, "path": name}

    def _send_json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        sent = 0
        if self.command != "HEAD":
            sent = len(body) // 2 if self.is_cut_now() else len(body)
            self.wfile.write(body[:sent])
        self.hub.requests.append(Request(self.command, self.route, status, sent))

    def is_cut_now(self) -> bool:
        self.close_connection = getattr(self, "is_cut", False)
        return self.close_connection
