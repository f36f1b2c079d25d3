"""Object storage that is far away: a server of files in a process of its own, and its file system.

    python -m tests.benchmarks.slow_server FOLDER

Each request takes 20 ms, and its bytes as long as they do at 200 MB/s. It prints its port; `/count`
says how many requests there were since it was last asked.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.http import HTTPFileSystem

LATENCY_S, BYTES_PER_S = 0.02, 200e6


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD of files, with ranges, and lists folders as JSON."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    requests: ClassVar[list[int]] = [0]

    def __init__(self, root: Path, *args: Any) -> None:
        self.root = root
        super().__init__(*args)

    def do_GET(self) -> None:
        name, _, query = self.path.partition("?")
        if name == "/count":
            self._answer(200, json.dumps(self.requests[0]).encode())
            self.requests[0] = 0
            return
        self.requests[0] += 1
        time.sleep(LATENCY_S)
        path = self.root / name.strip("/")
        if query == "list":
            files = [file for file in path.rglob("*") if file.is_file()]
            sizes = {f"/{file.relative_to(self.root)}": file.stat().st_size for file in files}
            self._answer(200, json.dumps(sizes).encode())
        elif not path.is_file():
            self._answer(404, b"")
        else:
            self._answer_part(path.read_bytes())

    do_HEAD = do_GET

    def _answer_part(self, data: bytes) -> None:
        asked = self.headers.get("Range")
        part = data
        if asked:
            first, last = asked.removeprefix("bytes=").split("-")
            part = data[int(first) : int(last) + 1 if last else None]
        time.sleep(len(part) / BYTES_PER_S)
        self._answer(206 if asked else 200, part)

    def _answer(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


class SlowFileSystem(HTTPFileSystem):
    """The files of such a server, which are listed in one request, as object stores do."""

    protocol = "slow"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.replace("slow://", "http://", 1).rstrip("/")

    async def _find(self, path: str, *_: Any, **__: Any) -> dict[str, Any]:
        session = await self.set_session()
        async with session.get(f"{path}?list") as answer:
            sizes = json.loads(await answer.text())
        host = "/".join(path.split("/", 3)[:3])
        return {f"{host}{name}": {"size": size, "type": "file"} for name, size in sizes.items()}


@contextlib.contextmanager
def serving(root: Path) -> Iterator[str]:
    """Serves a folder; yields its address, `slow://HOST:PORT`."""
    fsspec.register_implementation("slow", SlowFileSystem, clobber=True)
    command = [sys.executable, "-m", __name__, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"slow://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.terminate()


def count_requests(address: str) -> int:
    """Returns how many requests there were since it was last asked."""
    with urllib.request.urlopen(address.replace("slow", "http", 1) + "/count") as answer:
        return int(json.loads(answer.read()))


def main() -> None:
    """Serves a folder until it is ended."""
    handler: Any = partial(Handler, Path(sys.argv[1]))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
