"""A Hub on the loopback interface: the commits of one repository, of data or of a model, out of folders, a log of the
requests, and faults on demand."""

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
    """One request and its answer; `body_bytes` is what was sent, less than promised where the connection was cut."""

    method: str
    path: str
    status: int
    body_bytes: int


@dataclass
class _Fault:
    pattern: str
    status: int | None  # None: the connection is cut in the middle of the body
    code: str
    after: int
    times: float


class LoopbackHub:
    """Serve `repository`; inside `with`, it listens on `url`.

    commits: the folder of files of each commit. branches: the commit of each branch. kind: "dataset" or "model".
    """

    def __init__(
        self,
        repository: str,
        commits: dict[str, Path],
        branches: dict[str, str],
        kind: str = "dataset",
        handler: "type[Handler] | None" = None,
    ):
        self.repository, self.commits, self.branches, self.kind = repository, commits, branches, kind
        self.requests: list[Request] = []
        self._faults: list[_Fault] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("OfHub", (handler or Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "LoopbackHub":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, cache: Path) -> dict[str, str]:
        """The variables of a process whose Hub this is, with a cache of its own."""
        settings = {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(cache), **settings}

    def fail(self, pattern: str, status: int, code: str = "", after: int = 0, times: float = float("inf")) -> None:
        """Answer with an error where `GET path` matches, `times` times once `after` requests have passed.

        code: the Hub's own name for the error, such as `GatedRepo`.
        """
        self._faults.append(_Fault(pattern, status, code, after, times))

    def cut(self, pattern: str, after: int = 0, times: float = 1) -> None:
        """Close the connection in the middle of a body, likewise."""
        self._faults.append(_Fault(pattern, None, "", after, times))

    def heal(self) -> None:
        """Take back all faults."""
        self._faults.clear()

    def asked(self, pattern: str) -> list[Request]:
        """Return the requests whose `GET path` matches."""
        return [request for request in self.requests if re.search(pattern, f"{request.method} {request.path}")]

    def take_fault(self, request: str) -> _Fault | None:
        """Use up one of the faults that wait for a request."""
        with self._lock:
            for fault in self._faults:
                if re.search(fault.pattern, request):
                    fault.after -= 1
                    if fault.after < 0 and fault.times > 0:
                        fault.times -= 1
                        return fault
        return None


class Handler(BaseHTTPRequestHandler):
    """The few addresses of the Hub that `huggingface_hub`, `datasets` and `transformers` read a repository through."""

    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        self.route = unquote(address.path)
        fault = self.hub.take_fault(f"{self.command} {self.route}")
        self.cuts = fault is not None and fault.status is None
        if fault and fault.status:
            return self.refuse(fault.status, fault.code)
        self.answer(parse_qs(address.query))

    do_HEAD = do_GET

    def log_message(self, *_) -> None:
        """Keep the test's output free of the server's lines."""

    def answer(self, query: dict[str, list[str]]) -> None:
        name = re.escape(self.hub.repository)
        # Only a model's files lie right below the Hub's name.
        files = rf"/{name}" if self.hub.kind == "model" else rf"/{self.hub.kind}s/{name}"
        for pattern, answer in (
            (rf"/api/{self.hub.kind}s/{name}(?:/revision/(?P<revision>.+))?", self._describe),
            (rf"/api/{self.hub.kind}s/{name}/tree/(?P<revision>[^/]+)/?(?P<path>.*)", self._list),
            (rf"{files}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", self._serve),
        ):
            if match := re.fullmatch(pattern, self.route):
                revision, *path = match.groups(default="main")
                commit = self.hub.branches.get(revision, revision)
                if commit not in self.hub.commits:
                    return self.refuse(404, "RevisionNotFound")
                self.recursive = query.get("recursive", ["false"])[0].lower() == "true"
                return answer(commit, *path)
        self.refuse(404, "RepoNotFound")

    def _describe(self, commit: str) -> None:
        self.send_json({"id": self.hub.repository, "sha": commit})

    def _list(self, commit: str, path: str) -> None:
        root = self.hub.commits[commit]
        if not (root / path).is_dir():
            return self.refuse(404, "EntryNotFound")
        found = sorted((root / path).rglob("*") if self.recursive else (root / path).iterdir())
        self.send_json([self.entry(root, file) for file in found])

    def _serve(self, commit: str, path: str) -> None:
        file = self.hub.commits[commit] / path
        if not file.is_file():
            return self.refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
        content = file.read_bytes()
        etag = hashlib.sha256(content).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            return self._send(200, content, headers)
        first, end = int(wanted[1]), min(int(wanted[2] or len(content)) + 1, len(content))
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(content)}"
        self._send(206, content[first:end], headers)

    def refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self._send(status, b"", {**(headers or {}), **({"X-Error-Code": code} if code else {})})

    def send_json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        sent = 0 if self.command == "HEAD" else len(body) // 2 if self.cuts else len(body)
        # Logged first: the client may act on the answer before this thread goes on.
        self.hub.requests.append(Request(self.command, self.route, status, sent))
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body[:sent])
        if self.cuts:
            self.close_connection = True

    def entry(self, root: Path, file: Path) -> dict:
        """Return what a listing says of a file or folder."""
        name = file.relative_to(root).as_posix()
        identity = hashlib.sha1(name.encode()).hexdigest()
        kind = {"type": "directory", "size": 0} if file.is_dir() else {"type": "file", "size": file.stat().st_size}
        return {**kind, "oid": identity, "path": name}
