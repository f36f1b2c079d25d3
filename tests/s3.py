"""An object store over the wire: moto's S3 server in this process, and a count of its requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib import request

import pytest

from latent_store.storage import object_stores

BUCKET = "bucket"
SECRET = "s3cr3t-that-nobody-prints"


@dataclass(kw_only=True)
class Server:
    """A server with one bucket.

    Attributes:
        endpoint: Its address.
        requests: How many of each kind were made since it began, or since this was cleared.
    """

    endpoint: str
    requests: Counter[str] = field(default_factory=Counter)

    @property
    def url(self) -> str:
        """The bucket."""
        return f"s3://{BUCKET}"


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
    call = s3fs.S3FileSystem._call_s3

    async def counted(fs: Any, method: str, *args: Any, **options: Any) -> Any:
        found.requests[method] += 1
        return await call(fs, method, *args, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
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
