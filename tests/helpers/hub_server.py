"""A hub in this process: repositories in memory, behind the addresses that huggingface_hub asks for."""

import base64
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from helpers.loopback import LoopbackServer

TOKEN = "hf_plantedtokenplantedtokenplanted"
COMMIT = "{:040x}"


class HubHandler(BaseHTTPRequestHandler):
    """Creates repositories, takes commits of regular files, and serves the files of the newest commit.

    Attributes:
        repositories: files by path of each repository.
        asked: method, path, and token of each request.
        private: repositories that only a token may read.
        messages: messages of the commits.
        mood: `hub`; or `silent`, which takes requests without an answer; `page`, which answers all with a page, as the
            login of a network does; or `gone`, which hangs up.
    """

    repositories: dict[str, dict[str, bytes]]
    asked: list[tuple[str, str, str | None]]
    private: set[str]
    messages: list[str]
    mood: str
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def handle_one_request(self) -> None:
        if self.mood in ("silent", "gone"):
            time.sleep(3 if self.mood == "silent" else 0)
            self.close_connection = True
        else:
            super().handle_one_request()

    def do_HEAD(self) -> None:
        self.serve(body=False)

    def do_GET(self) -> None:
        self.serve(body=True)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.noted()
        if self.mood == "page":
            return self.send(200, b"<html>Log in</html>", {}, body=True)
        if path == "/api/validate-yaml":
            return self.validate(json.loads(body)["content"])
        if self.token != TOKEN:
            return self.answer(401, {"error": f"Invalid token {self.token} in Authorization header"})
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        name, action = path.removeprefix("/api/models/").removesuffix("/main").rsplit("/", 1)
        if name not in self.repositories:
            return self.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if action == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": files})
        lines = [json.loads(line) for line in body.splitlines()]
        self.messages.append(lines[0]["value"]["summary"])
        for line in lines[1:]:
            self.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        oid = COMMIT.format(len(self.messages))
        return self.answer(200, {"commitUrl": f"http://{self.headers['Host']}/{name}/commit/{oid}", "commitOid": oid})

    def create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        url = f"http://{self.headers['Host']}/{name}"
        if asked["organization"] == "other":
            return self.answer(403, {"error": "You don't have the rights to create a model under this namespace"})
        if name in self.repositories:
            return self.answer(409, {"error": "You already created this model repo", "url": url})
        self.repositories[name] = {}
        if asked.get("visibility") == "private":
            self.private.add(name)
        return self.answer(200, {"url": url})

    def validate(self, card: str) -> None:
        if "license: none-such" in card.split("---")[1]:
            return self.answer(400, {"errors": [{"message": '"license" must be one of [mit, ...]'}]})
        return self.answer(200, {"errors": [], "warnings": []})

    def serve(self, *, body: bool) -> None:
        path = self.noted()
        if self.mood == "page":
            return self.send(200, b"<html>Log in</html>", {}, body=body)
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        files = self.repositories.get(match[1]) if match else None
        if match is None or files is None or (match[1] in self.private and self.token != TOKEN):
            return self.answer(401 if self.token is None else 404, {}, {"X-Error-Code": "RepoNotFound"})
        if match[2] not in ("main", COMMIT.format(len(self.messages))):
            return self.answer(404, {}, {"X-Error-Code": "RevisionNotFound"})
        commit = {"X-Repo-Commit": COMMIT.format(len(self.messages))}
        if match[3] not in files:
            return self.answer(404, {}, {"X-Error-Code": "EntryNotFound", **commit})
        data = files[match[3]]
        return self.send(200, data, {"ETag": f'"{hash(data):x}"', **commit}, body=body)

    def noted(self) -> str:
        path = urlsplit(self.path).path
        self.asked.append((self.command, path, self.token))
        return path

    @property
    def token(self) -> str | None:
        authorization = self.headers.get("Authorization")
        return None if authorization is None else authorization.removeprefix("Bearer ")

    def answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        self.send(status, json.dumps(content).encode(), headers or {}, body=self.command != "HEAD")

    def send(self, status: int, data: bytes, headers: dict[str, str], *, body: bool) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


@contextmanager
def running_hub() -> Iterator[tuple[str, type[HubHandler]]]:
    """A hub on a free port: its address, and its state."""
    kind = type("OneHub", (HubHandler,), {})
    empty(kind)
    server = LoopbackServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", kind
    finally:
        server.shutdown()
        server.server_close()


def empty(hub: type[HubHandler]) -> None:
    """Forget all repositories and requests."""
    hub.repositories, hub.asked, hub.private, hub.messages, hub.mood = {}, [], set(), [], "hub"
