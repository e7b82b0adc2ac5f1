"""A model hub on this machine: folders served over HTTP as the hub's client expects them, so that names are really downloaded."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from huggingface_hub import close_session, constants

COMMIT = "0" * 40


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def handler(
    repos: Mapping[str, Path], refused: Mapping[str, tuple[int, str]], short: bool, asked: list[str]
) -> type[BaseHTTPRequestHandler]:
    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.answer(body=True)

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def answer(self, body: bool) -> None:
            path = self.path.partition("?")[0].removeprefix("/api/models").strip("/")
            repo = "/".join(path.split("/")[:2])
            if repo in refused:
                status, code = refused[repo]
                return self.send(status, b"", {"X-Error-Code": code, "X-Error-Message": "Access is restricted."}, body)
            if repo not in repos:
                return self.send(404, b"", {"X-Error-Code": "RepoNotFound"}, body)
            if "/resolve/" not in path:
                files = {str(p.relative_to(repos[repo])): p for p in sorted(repos[repo].rglob("*")) if p.is_file()}
                tree = [{"type": "file", "path": k, "size": p.stat().st_size, "oid": digest(p.read_bytes())} for k, p in files.items()]
                about = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files], "private": False}
                told = json.dumps(tree if "/tree/" in path else about).encode()
                return self.send(200, told, {"Content-Type": "application/json"}, body)
            data = (repos[repo] / path.split("/resolve/")[1].partition("/")[2]).read_bytes()
            told = {"ETag": f'"{digest(data)}"', "X-Repo-Commit": COMMIT}
            self.send(200, data[: len(data) // 2] if short and body else data, told, body)

        def send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
            self.send_response(status)
            for key, value in (headers | {"Content-Length": str(len(data))}).items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *words: object) -> None:
            pass

    return Hub


GATED = (403, "GatedRepo")  # a status and the hub's own word for it


@contextmanager
def serve(
    repos: Mapping[str, Path], cache: Path, patch: pytest.MonkeyPatch, refused: Mapping[str, tuple[int, str]] = {}, short: bool = False
) -> Iterator[list[str]]:
    """Serve `repos` {name: folder}, answer for `refused` ones as told, and half of every file if `short`; the client sees nothing else.

    Yields the paths that were fetched.
    """
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(repos, refused, short, asked))
    Thread(target=server.serve_forever, daemon=True).start()
    patch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    close_session()
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()
        close_session()
