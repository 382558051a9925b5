"""A Hub on the loopback interface that can be written to: repositories, branches, commits and large files, by the
requests of the real client.

Xet is off: its protocol is that of a compiled client with a storage service, and the Hub takes large files by LFS too.
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from huggingface_hub import close_session, constants

from tests.loopback_hub import Handler, LoopbackHub

TOKEN, READ_TOKEN = "hf_loopbackwriter", "hf_loopbackreader"


class WritableHub(LoopbackHub):
    """A Hub where one repository, of a model, can be made by whoever has `TOKEN`; `READ_TOKEN` may only read it.

    private: None until the repository is made. parents: the commit before each commit.
    """

    def __init__(self, repository: str, folder: Path):
        super().__init__(repository, {}, {}, kind="model", handler=_WritingHandler)
        self.folder, self.private = folder, None
        self.parents: dict[str, str | None] = {}
        self.large: dict[str, bytes] = {}  # by sha256

    @contextlib.contextmanager
    def as_client(self, cache: Path, token: str | None = TOKEN) -> Iterator[pytest.MonkeyPatch]:
        """Let the client in this process talk to this Hub; its settings are read when it is imported."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NO_PROXY", "127.0.0.1")
            patch.setenv("HF_TOKEN", token) if token else patch.delenv("HF_TOKEN", raising=False)
            settings = {"ENDPOINT": self.url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}
            settings["HUGGINGFACE_CO_URL_TEMPLATE"] = self.url + "/{repo_id}/resolve/{revision}/{filename}"
            settings |= {"HF_HUB_CACHE": str(cache), "HF_TOKEN_PATH": str(cache / "no_token")}
            for name, value in settings.items():
                patch.setattr(constants, name, value)
            close_session()
            yield patch
        close_session()

    def files(self, branch: str) -> dict[str, bytes]:
        """Return what a branch holds."""
        root = self.commits[self.branches[branch]]
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    def create(self, private: bool) -> None:
        self.private = private
        self.branches["main"] = self.commit(None, [("put", ".gitattributes", b"*.safetensors filter=lfs\n")])

    def commit(self, parent: str | None, changes: list[tuple[str, str, bytes]]) -> str:
        """Add a commit of `(put or delete, path, content)` and return its name."""
        name = hashlib.sha1(f"{len(self.commits)} {parent}".encode()).hexdigest()
        folder = self.folder / name
        if parent is None:
            folder.mkdir(parents=True)
        else:
            shutil.copytree(self.commits[parent], folder, copy_function=os.link)
        for change, path, content in changes:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).unlink(missing_ok=change == "put")
            if change == "put":
                (folder / path).write_bytes(content)
        self.commits[name], self.parents[name] = folder, parent
        return name

    def history(self, commit: str | None) -> list[str]:
        """Return a commit and those before it."""
        found = []
        while commit is not None:
            found.append(commit)
            commit = self.parents[commit]
        return found


class _WritingHandler(Handler):
    """The addresses through which `huggingface_hub` makes and changes a repository."""

    hub: WritableHub

    def do_POST(self) -> None:
        # Read before anything is answered, or the connection would go on in the middle of it.
        self.body = self._read_body()
        self.do_GET()

    do_PUT = do_POST

    def answer(self, query: dict[str, list[str]]) -> None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if match := re.fullmatch(r"/large/([0-9a-f]{64})", self.route):  # its address is the permission
            return self._take_large_file(match[1])
        if token not in (TOKEN, READ_TOKEN):
            if token or self.command != "GET" or self.hub.private:
                return self.refuse(401, "", {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif self.route == "/api/whoami-v2":
            return self.send_json({"name": "you", "auth": {"accessToken": {"role": "write"}}})
        if self.command == "POST" and token != TOKEN:
            return self.refuse(403, "", {"X-Error-Message": "this token may only read"})
        api = rf"/api/models/{re.escape(self.hub.repository)}"
        for pattern, answer in (
            (r"POST /api/repos/create", self._create),
            (r"POST /api/validate-yaml", self._validate),
            (rf"POST {api}/branch/(.+)", self._branch),
            (rf"POST {api}/preupload/(.+)", self._preupload),
            (rf"POST {api}/commit/(.+)", self._commit),
            (rf"POST /{re.escape(self.hub.repository)}\.git/info/lfs/objects/batch", self._large_files),
            (rf"GET {api}/refs", self._refs),
            (rf"GET {api}/commits/(.+)", self._commits),
            (rf"GET {api}", self._about),
        ):
            if match := re.fullmatch(pattern, f"{self.command} {self.route}"):
                if self.hub.private is None and "/models/" in self.route:
                    return self.refuse(404, "RepoNotFound")
                return answer(*match.groups())
        super().answer(query)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _create(self) -> None:
        asked = json.loads(self.body)
        if f"{asked['organization']}/{asked['name']}" != self.hub.repository:
            return self.refuse(403, "", {"X-Error-Message": "another's namespace"})
        exists = self.hub.private is not None
        if not exists:
            self.hub.create(private=asked["visibility"] == "private")
        address = json.dumps({"url": f"{self.hub.url}/{self.hub.repository}"}).encode()
        self._send(409 if exists else 200, address, {"Content-Type": "application/json"})

    def _validate(self) -> None:
        header = yaml.safe_load(json.loads(self.body)["content"].split("---\n")[1])
        errors = [] if header.get("license") else [{"message": "license is missing"}]
        content = json.dumps({"errors": errors, "warnings": []}).encode()
        self._send(400 if errors else 200, content, {"Content-Type": "application/json"})

    def _branch(self, branch: str) -> None:
        if branch in self.hub.branches:
            return self.refuse(409, "")
        start = json.loads(self.body).get("startingPoint", "main")
        self.hub.branches[branch] = self.hub.branches.get(start, start)
        self.send_json({})

    def _preupload(self, revision: str) -> None:
        files = json.loads(self.body)["files"]
        modes = {True: "lfs", False: "regular"}
        self.send_json(
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": modes[file["path"].endswith(".safetensors")],
                        "shouldIgnore": False,
                    }
                    for file in files
                ]
            }
        )

    def _large_files(self) -> None:
        objects = json.loads(self.body)["objects"]
        for each in objects:
            if each["oid"] not in self.hub.large:
                each["actions"] = {"upload": {"href": f"{self.hub.url}/large/{each['oid']}"}}
        self.send_json({"transfer": "basic", "objects": objects})

    def _take_large_file(self, sha256: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != sha256:
            return self.refuse(400, "")
        self.hub.large[sha256] = self.body
        self.send_json({})

    def _commit(self, revision: str) -> None:
        header, *changes = map(json.loads, self.body.splitlines())
        head = self.hub.branches[revision]
        if header["value"].get("parentCommit", head) != head:
            return self.refuse(412, "")
        wanted = []
        for change in changes:
            value = change["value"]
            if change["key"] == "lfsFile" and value["oid"] not in self.hub.large:
                return self.refuse(400, "")
            content = {
                "file": lambda value: base64.b64decode(value["content"]),
                "lfsFile": lambda value: self.hub.large[value["oid"]],
                "deletedFile": lambda value: b"",
            }[change["key"]](value)
            wanted.append(("delete" if change["key"] == "deletedFile" else "put", value["path"], content))
        self.hub.branches[revision] = commit = self.hub.commit(head, wanted)
        self.send_json({"commitUrl": f"{self.hub.url}/{self.hub.repository}/commit/{commit}", "commitOid": commit})

    def _refs(self) -> None:
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit}
            for name, commit in self.hub.branches.items()
        ]
        self.send_json({"branches": branches, "converts": [], "tags": []})

    def _commits(self, revision: str) -> None:
        found = self.hub.history(self.hub.branches[revision])
        facts = {"authors": [], "date": "2024-01-01T00:00:00.000Z", "title": "", "message": ""}
        self.send_json([{"id": commit, **facts} for commit in found])

    def _about(self) -> None:
        self.send_json(
            {"id": self.hub.repository, "sha": self.hub.branches["main"], "private": self.hub.private, "tags": []}
        )

    def entry(self, root: Path, file: Path) -> dict:
        listed = super().entry(root, file)
        if file.is_file():
            content = file.read_bytes()
            listed["oid"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            if (sha256 := hashlib.sha256(content).hexdigest()) in self.hub.large:
                listed["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 134}
        return listed
