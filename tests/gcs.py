"""An object store of Google's kind over the wire: its JSON API as far as clients here use it.

`gcp-storage-emulator` 2026.7.19, which emulates it, ignores `ifGenerationMatch`, on which
leases rest, answers a range behind an object's end, where Google refuses, and changes objects that
end in a carriage return. Accounts and their tokens are here, too.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c
import pytest

from latent_store.storage import object_stores

BUCKET = "bucket"
TOKEN = "t0ken-that-nobody-prints"
Answer = tuple[int, Any]
"""A status, and bytes or what becomes JSON."""
_BUCKET, _OBJECT = re.compile(r"/storage/v1/b/([^/]+)"), re.compile(r"/storage/v1/b/([^/]+)/o/(.+)")
_NO_BUCKET: Answer = (404, "The specified bucket does not exist.")


@dataclass(kw_only=True)
class Server:
    """A server with one bucket.

    Attributes:
        endpoint: Its address.
        objects: Key -> what lies there, and what is told of it.
        asked: Method and path of each request since it began, or since this was cleared.
        page: Entries that one answer to a listing has at most.
        refused: Whether the token endpoint knows the account no longer.
        may: Methods that the account may use.
    """

    endpoint: str = ""
    objects: dict[str, tuple[bytes, dict[str, str]]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    page: int = 1000
    refused: bool = False
    may: tuple[str, ...] = ("GET", "POST", "PUT", "DELETE")
    uploads: dict[str, tuple[str, dict[str, str], bytearray]] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def url(self) -> str:
        """The bucket."""
        return f"gs://{BUCKET}"

    def answer(self, method: str, url: str, headers: Any, body: bytes) -> Answer:
        """Returns what a request is answered."""
        path = urlsplit(url).path
        query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        self.asked.append((method, path))
        if path == "/token":
            token = {"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"}
            return (400, {"error": "invalid_grant"}) if self.refused else (200, token)
        if "Authorization" not in headers:
            return 401, "Anonymous caller does not have storage.objects.list access to the bucket."
        if headers["Authorization"] != f"Bearer {TOKEN}":
            return 401, "Invalid Credentials"
        if method not in self.may:
            return 403, "somebody@lab does not have storage.objects access to the bucket."
        path = path.removeprefix("/upload").removeprefix("/download")
        with self.lock:
            if found := _OBJECT.fullmatch(path):
                if unquote(found[1]) != BUCKET:
                    return _NO_BUCKET
                media = query.get("alt") == "media"
                return self._object(method, unquote(found[2]), headers.get("Range"), media=media)
            found = _BUCKET.match(path)
            if not found or unquote(found[1]) != BUCKET:
                return _NO_BUCKET
            if not path.endswith("/o"):
                kept = {"retentionDurationSeconds": "604800"}
                return 200, {"kind": "storage#bucket", "name": BUCKET, "softDeletePolicy": kept}
            if method == "GET":
                return 200, self._listing(**query)
            return self._upload(query, headers, body)

    def _object(self, method: str, key: str, part: str | None, *, media: bool) -> Answer:
        if key not in self.objects:
            return 404, f"No such object: {BUCKET}/{key}"
        data, told = self.objects[key]
        if method == "DELETE":
            del self.objects[key]
            return 204, b""
        if not media:
            return 200, told
        if part is None:
            return 200, data
        first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", part).groups()  # type: ignore[union-attr]
        if int(first) >= len(data):
            return 416, b"The requested range cannot be satisfied."
        return 206, data[int(first) : int(last or len(data)) + 1]

    def _listing(
        self, prefix: str = "", delimiter: str = "", pageToken: str = "", **_: str
    ) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key in sorted(self.objects):
            if key.startswith(prefix):
                end = key.find(delimiter, len(prefix)) if delimiter else -1
                found[key if end < 0 else key[: end + 1]] = None if end >= 0 else key
        left = [name for name in sorted(found) if name > pageToken]
        page = left[: self.page]
        items = [self.objects[key][1] for name in page if (key := found[name])]
        more = {"nextPageToken": page[-1]} if left[self.page :] else {}
        prefixes = [name for name in page if not found[name]]
        return {"kind": "storage#objects", "items": items, "prefixes": prefixes, **more}

    def _upload(self, query: dict[str, str], headers: Any, body: bytes) -> Answer:
        if "upload_id" in query:
            key, query, data = self.uploads[query["upload_id"]]
            data += body
            if headers["Content-Range"].endswith("/*"):
                return 308, {"Range": f"bytes=0-{len(data) - 1}"}
            return self._put(key, bytes(data), query)
        if query["uploadType"] == "resumable":
            number = str(len(self.uploads))
            key = query.get("name") or json.loads(body)["name"]
            self.uploads[number] = (key, query, bytearray())
            place = f"/upload/storage/v1/b/{BUCKET}/o?uploadType=resumable&upload_id={number}"
            return 200, {"Location": f"{self.endpoint}{place}"}
        mark = re.search(r"""boundary=["']?([^"']+)""", headers["Content-Type"])
        assert mark is not None
        about, content = body.split(b"--" + mark[1].encode())[1:3]
        line = b"\r\n" if about.startswith(b"\r\n") else b"\n"
        key = json.loads(about.partition(2 * line)[2])["name"]
        return self._put(key, content.partition(2 * line)[2].removesuffix(line), query)

    def _put(self, key: str, data: bytes, query: dict[str, str]) -> Answer:
        now = self.objects[key][1]["generation"] if key in self.objects else "0"
        if query.get("ifGenerationMatch", now) != now:
            return 412, "At least one of the pre-conditions you specified did not hold."
        when = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        crc32c = struct.pack(">I", google_crc32c.value(data))
        told = {
            "kind": "storage#object",
            "name": key,
            "bucket": BUCKET,
            "generation": str(time.time_ns() // 1000),
            "metageneration": "1",
            "timeCreated": when,
            "updated": when,
            "contentType": "application/octet-stream",
            "size": str(len(data)),
            "md5Hash": base64.b64encode(hashlib.md5(data).digest()).decode(),
            "crc32c": base64.b64encode(crc32c).decode(),
        }
        self.objects[key] = data, told
        return 200, told


class Handler(BaseHTTPRequestHandler):
    """Hands requests to the server's `answer`."""

    protocol_version = "HTTP/1.1"  # One connection, many requests.
    disable_nagle_algorithm = True
    told: Server

    def do_GET(self) -> None:
        """Answers a request, of whatever method."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, found = self.told.answer(self.command, self.path, self.headers, body)
        if isinstance(found, str):
            found = {"error": {"code": status, "message": found}}
        self.send_response(status)
        for name in ("Location", "Range"):
            if isinstance(found, dict) and name in found:
                self.send_header(name, found[name])
        data = found if isinstance(found, bytes) else json.dumps(found).encode()
        kind = "application/octet-stream" if found is data else "application/json"
        self.send_header("Content-Type", kind)
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, *_: object) -> None:
        """Says nothing."""


class Listener(ThreadingHTTPServer):
    """A thread for each connection, about whose end nothing is said."""

    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Clients hang up on answers that they want no longer."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*_)


@contextmanager
def listening(server: Server) -> Iterator[Server]:
    """Lets a server answer at an address of its own."""
    handler = type("Bound", (Handler,), {"told": server})
    with Listener(("127.0.0.1", 0), handler) as found:
        server.endpoint = f"http://127.0.0.1:{found.server_port}"
        threading.Thread(target=found.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield server
        finally:
            found.shutdown()


@contextmanager
def serving(
    monkeypatch: pytest.MonkeyPatch, folder: Path, server: Server | None = None
) -> Iterator[Server]:
    """Starts a server, to which the environment leads every client of this process and of those
    that it starts, with the key of an account that is written into a folder."""
    gcsfs = pytest.importorskip("gcsfs")
    clean(monkeypatch)
    _know_buckets(monkeypatch)
    with listening(server or Server()) as found:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", found.endpoint)
        key = write_key(folder / "key.json", found.endpoint)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
        gcsfs.GCSFileSystem.clear_instance_cache()
        try:
            yield found
        finally:
            gcsfs.GCSFileSystem.clear_instance_cache()


def _know_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Says that buckets are of the common kind, which clients ask of Google's own address."""
    from gcsfs import extended_gcsfs

    async def common(*_: object) -> Any:
        return extended_gcsfs.BucketType.NON_HIERARCHICAL

    monkeypatch.setattr(extended_gcsfs.ExtendedGcsFileSystem, "_get_bucket_type", common)
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # Of other processes.


def write_key(path: Path, endpoint: str) -> Path:
    """Writes the key of an account that gets its tokens from a server."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    private = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    about = {"type": "service_account", "project_id": "lab", "private_key_id": "1"}
    mail = {"client_email": "somebody@lab.iam.gserviceaccount.com", "client_id": "1"}
    uri = {"token_uri": f"{endpoint}/token"}
    path.write_text(json.dumps({**about, **mail, **uri, "private_key": private.decode()}))
    return path


def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes away what a developer's machine says of Google, and gives a busy one time."""
    monkeypatch.setattr(object_stores, "ANSWER_SECONDS", 60)
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT", "STORAGE_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", "/nonexistent")
    # There is no machine of Google's to ask for an account.
    monkeypatch.setenv("NO_GCE_CHECK", "true")
