"""An object store over the wire: moto's S3 server in this process, and a log of its requests."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib import parse, request

import pytest

from latent_store.storage import object_stores

BUCKET = "bucket"
SECRET = "s3cr3t-that-nobody-prints"
Request = tuple[str, str]
"""Its kind (GET, HEAD, PUT, DELETE or LIST), and the key or, of a listing, the prefix."""
_ASKER = re.compile(r"Credential=([^/]+)/")


@dataclass(kw_only=True)
class Server:
    """A server with one bucket.

    Attributes:
        endpoint: Its address.
        asked: Each request since it began, or since this was cleared.
        asked_by: Likewise, by the access key that signed them.
        arrived: Called with that key and a request before it is answered.
    """

    endpoint: str
    asked: list[Request] = field(default_factory=list)
    asked_by: dict[str, list[Request]] = field(default_factory=lambda: defaultdict(list))
    arrived: Callable[[str, Request], None] = lambda *_: None

    @property
    def url(self) -> str:
        """The bucket."""
        return f"s3://{BUCKET}"

    @property
    def kinds(self) -> Counter[str]:
        """How many requests there were of each kind."""
        return Counter(kind for kind, _ in self.asked)

    def note(self, environ: dict[str, Any]) -> None:
        """Logs a request as it arrives; `environ` is WSGI's."""
        bucket, _, key = environ["PATH_INFO"].lstrip("/").partition("/")
        query = parse.parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
        if bucket != BUCKET:
            return
        kind = "DELETE" if "delete" in query else environ["REQUEST_METHOD"]
        if "list-type" in query:
            kind, key = "LIST", query.get("prefix", [""])[0]
        signed = _ASKER.search(environ.get("HTTP_AUTHORIZATION", ""))
        asker = signed[1] if signed else ""
        self.asked.append((kind, key))
        self.asked_by[asker].append((kind, key))
        self.arrived(asker, (kind, key))


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Starts a server, to which the environment leads every client of this process."""
    s3fs = pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    clean(monkeypatch)
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    found = Server(endpoint=f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_ENDPOINT_URL", found.endpoint)
    # What a server holds outlives it, in the process.
    request.urlopen(request.Request(f"{found.endpoint}/moto-api/reset", method="POST")).close()
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem(endpoint_url=found.endpoint).mkdir(BUCKET)
    answer = server._server.app

    def noted(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        found.note(environ)
        return answer(environ, start)

    server._server.app = noted
    try:
        yield found
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()


def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes away what a developer's machine says of object stores, and gives a busy one time."""
    monkeypatch.setattr(object_stores, "ANSWER_SECONDS", 60)
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE", "ENDPOINT_URL"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
