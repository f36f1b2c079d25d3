"""A bucket that is far away: S3's requests, answered by a process of its own.

    python -m tests.benchmarks.slow_bucket FOLDER

It holds what lies in a folder, and what clients write, in memory; `slow_server` tells how long a
request and its bytes take. It answers what stores are read and written with, looks at no signature,
and costs a client little of a core that both share. It prints its address.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import parse_qs, unquote
from xml.sax.saxutils import escape, unescape

from tests.benchmarks.slow_server import BYTES_PER_S, LATENCY_S

BUCKET = "bucket"
_COUNT = "/count"
_PAGE = 1000
"""Names of one listing."""
_REASONS = {
    200: "OK", 204: "No Content", 206: "Partial Content", 404: "Not Found",
    412: "Precondition Failed", 416: "Range Not Satisfiable", 501: "Not Implemented",
}  # fmt: skip
_KEY = re.compile(r"<Key>(.*?)</Key>")


@dataclass(frozen=True)
class Answer:
    """An answer to one request."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Held:
    """An object, the tag that S3 gives it, and when it was written."""

    data: bytes
    tag: str
    written: datetime


def _held(data: bytes) -> Held:
    tag = f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
    return Held(data, tag, datetime.now(UTC))


class SlowBucket:
    """One bucket.

    Args:
        root: The folder whose files it holds at first.
    """

    def __init__(self, root: Path) -> None:
        files = (path for path in root.rglob("*") if path.is_file())
        self.objects = {
            path.relative_to(root).as_posix(): _held(path.read_bytes()) for path in files
        }
        self.requests = 0

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers the requests of one connection, until its client ends it."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, target, _ = lines[0].split(" ")
                pairs = (line.partition(":") for line in lines[1:] if line)
                headers = {name.lower(): value.strip() for name, _, value in pairs}
                if "expect" in headers:
                    await asyncio.sleep(LATENCY_S)
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                if target == _COUNT:
                    answer, self.requests = Answer(200, str(self.requests).encode()), 0
                else:
                    self.requests += 1
                    answer = self._answer(method, target, headers, body)
                    await asyncio.sleep(LATENCY_S + (len(answer.body) + len(body)) / BYTES_PER_S)
                _send(writer, method, answer)
                await writer.drain()
        writer.close()

    def _answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        path, _, text = target.partition("?")
        key = unquote(path).lstrip("/").partition("/")[2]
        query = {name: values[0] for name, values in parse_qs(text, keep_blank_values=True).items()}
        if method in ("GET", "HEAD"):
            return self._list(query) if "list-type" in query else self._get(key, headers)
        if method == "PUT":
            return self._put(key, headers, body)
        if method == "DELETE":
            self.objects.pop(key, None)
            return Answer(204)
        if method == "POST" and "delete" in query:
            names = _KEY.findall(body.decode())
            for name in names:
                self.objects.pop(unescape(name), None)
            text = "".join(f"<Deleted><Key>{name}</Key></Deleted>" for name in names)
            return Answer(200, f"<DeleteResult>{text}</DeleteResult>".encode())
        return _error(501, "NotImplemented")

    def _get(self, key: str, headers: Mapping[str, str]) -> Answer:
        held = self.objects.get(key)
        if held is None:
            return _error(404, "NoSuchKey")
        told = {"ETag": held.tag, "Last-Modified": format_datetime(held.written, usegmt=True)}
        if "range" not in headers:
            return Answer(200, held.data, told)
        first, last = headers["range"].removeprefix("bytes=").split("-")
        start, end = int(first), int(last or len(held.data)) + 1
        part = held.data[start:end]
        if not part:
            return _error(416, "InvalidRange")
        place = f"bytes {start}-{start + len(part) - 1}/{len(held.data)}"
        return Answer(206, part, told | {"Content-Range": place})

    def _put(self, key: str, headers: Mapping[str, str], body: bytes) -> Answer:
        if key in self.objects and headers.get("if-none-match") == "*":
            return _error(412, "PreconditionFailed", "<Condition>If-None-Match</Condition>")
        held = self.objects[key] = _held(body)
        return Answer(200, headers={"ETag": held.tag})

    def _list(self, query: Mapping[str, str]) -> Answer:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        names: dict[str, Held | None] = {}
        for key in sorted(self.objects):
            if key.startswith(prefix):
                end = key.find(delimiter, len(prefix)) if delimiter else -1
                names[key if end < 0 else key[: end + 1]] = self.objects[key] if end < 0 else None
        left = [name for name in names if name > query.get("continuation-token", "")]
        page = left[:_PAGE]
        text = "".join(_entry(name, names[name]) for name in page)
        more = len(left) > _PAGE
        text += f"<KeyCount>{len(page)}</KeyCount><IsTruncated>{str(more).lower()}</IsTruncated>"
        if more:
            text += f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>"
        return Answer(200, f"<ListBucketResult>{text}</ListBucketResult>".encode())


def _entry(name: str, held: Held | None) -> str:
    if held is None:
        return f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
    written = held.written.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return (
        f"<Contents><Key>{escape(name)}</Key><LastModified>{written}</LastModified>"
        f"<ETag>{held.tag}</ETag><Size>{len(held.data)}</Size></Contents>"
    )


def _error(status: int, code: str, more: str = "") -> Answer:
    text = f"<Error><Code>{code}</Code><Message>{code}</Message>{more}</Error>"
    return Answer(status, text.encode())


def _send(writer: asyncio.StreamWriter, method: str, answer: Answer) -> None:
    told = {
        "Date": format_datetime(datetime.now(UTC), usegmt=True),
        "Content-Length": str(len(answer.body)),
        **(answer.headers or {}),
    }
    lines = [f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}"]
    lines += [f"{name}: {value}" for name, value in told.items()]
    body = b"" if method == "HEAD" else answer.body
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)


@contextlib.contextmanager
def serving(root: Path) -> Iterator[str]:
    """Serves a folder as a bucket; yields the endpoint, `http://HOST:PORT`."""
    command = [sys.executable, "-m", __name__, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def count_requests(endpoint: str) -> int:
    """Returns how many requests there were since it was last asked."""
    with urllib.request.urlopen(endpoint + _COUNT) as answer:
        return int(answer.read())


async def _serve(root: Path) -> None:
    server = await asyncio.start_server(SlowBucket(root).talk, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
