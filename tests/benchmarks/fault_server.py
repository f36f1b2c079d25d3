"""An object store that fails on purpose and counts: moto's S3, behind what fails as it is told.

Requests pass, or all of them fail for a time, or those that write, or a share of them; and whoever
waits for a certain one is called. A request for `/phase-NAME` notes the counts up to it.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PASS, REFUSED, SILENT, READ_ONLY = "passes", "refuses", "is silent", "is read only"
"""What becomes of requests. Where it is silent, none is answered before that has ended."""
UNAVAILABLE, UNSENT, UNANSWERED = "503", "connection lost before", "connection lost after"
"""How one request fails: with an answer, before it is carried out, or after it."""
FAILURES = (UNAVAILABLE, UNSENT, UNANSWERED)
PUT_LIKE, GET_LIKE, FREE, ROUNDS = "class A", "class B", "free", "rounds"
"""Classes of requests as price lists have them; and how often one came while none was under way."""
BUCKET = "faults"
_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "nothing"}
_ENVIRONMENT = {
    **_CREDENTIALS,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
}


def missing() -> list[str]:
    """Returns the packages that an object store needs and this environment lacks."""
    return [name for name in ("moto", "s3fs") if find_spec(name) is None]


class FaultyStore:
    """One bucket, as a WSGI application around moto's.

    Attributes:
        state: One of `PASS`, `REFUSED`, `SILENT`, `READ_ONLY`.
        share: Of requests that fail, 0 to 1.
        failure: How these do, one of `FAILURES`.
        requests: How many came since `reset`.
        counts: How many of each class, and how many rounds.
        phases: Name -> query and counts, as they were when it was noted.
        latency: Seconds that each request takes at least.
        endpoint: Its address, once it is served.
    """

    def __init__(self, application: Any) -> None:
        self.application, self.endpoint = application, ""
        self._lock, self._under_way = threading.Lock(), 0
        self._calm(0)

    @property
    def environment(self) -> dict[str, str]:
        """Variables that lead a client here."""
        return _ENVIRONMENT | {"AWS_ENDPOINT_URL": self.endpoint}

    def reset(self, seed: int) -> None:
        """Empties the store and forgets every fault; begins to draw with a seed."""
        self._calm(seed)
        for method, path in (("POST", "moto-api/reset"), ("PUT", BUCKET)):
            call = urllib.request.Request(f"{self.endpoint}/{path}", method=method)
            urllib.request.urlopen(call).close()
        self._calm(seed)

    def _calm(self, seed: int) -> None:
        self.state, self.share, self.failure = PASS, 0.0, UNAVAILABLE
        self.requests, self._wanted, self.latency = 0, 0, 0.0
        self.counts: Counter[str] = Counter()
        self.phases: dict[str, tuple[str, Counter[str]]] = {}
        self._act: Callable[[], object] = lambda: None
        self._rng = random.Random(seed)

    def at(self, number: int, act: Callable[[], object]) -> None:
        """Calls `act` when the request of that number comes, before it is carried out."""
        self._wanted, self._act = number, act

    def upload(self, folder: Path, prefix: str) -> None:
        """Copies a folder's contents to below a prefix."""
        self._fs().put(f"{folder}/", f"{BUCKET}/{prefix}/", recursive=True)

    def _fs(self) -> Any:
        import s3fs

        key, secret = _CREDENTIALS.values()
        fs = s3fs.S3FileSystem(key=key, secret=secret, endpoint_url=self.endpoint)
        fs.invalidate_cache()
        return fs

    def download(self, prefix: str, folder: Path) -> Path:
        """Copies what lies below a prefix into a folder, which it returns."""
        fs = self._fs()
        folder.mkdir(exist_ok=True)
        root = f"{BUCKET}/{prefix}/"
        for name in fs.find(root):
            path = folder / name.removeprefix(root)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(fs.cat_file(name))
        return folder

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answers a request, or fails to."""
        phase = environ["PATH_INFO"].partition("/phase-")[2]
        if phase:
            self.phases[phase] = (environ["QUERY_STRING"], Counter(self.counts))
            start_response("200 noted", [])
            return []
        with self._lock:
            self.counts[_class_of(environ)] += 1
            self.counts[ROUNDS] += not self._under_way
            self._under_way += 1
        try:
            time.sleep(self.latency)
            return self._answer(environ, start_response)
        finally:
            with self._lock:
                self._under_way -= 1

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        failure = self._failure_of(environ["REQUEST_METHOD"])
        if failure == UNSENT:
            return _lose(environ, start_response)
        if failure in (UNAVAILABLE, READ_ONLY):
            status, code = (403, "AccessDenied") if failure == READ_ONLY else (503, "SlowDown")
            start_response(f"{status} {code}", [("Content-Type", "application/xml")])
            return [f"<Error><Code>{code}</Code><Message>{failure}</Message></Error>".encode()]
        if failure == UNANSWERED:
            for _ in self.application(environ, lambda *_: None):
                pass
            return _lose(environ, start_response)
        answer: Iterable[bytes] = self.application(environ, start_response)
        return answer

    def _failure_of(self, method: str) -> str:
        with self._lock:
            self.requests += 1
            wanted = self.requests == self._wanted
            fails = self._rng.random() < self.share
        if wanted:
            self._act()
        if self.state == READ_ONLY and method in ("PUT", "POST", "DELETE"):
            return READ_ONLY
        if self.state in (REFUSED, SILENT):
            while self.state == SILENT:
                time.sleep(0.02)
            return UNSENT
        return self.failure if fails else ""


def _class_of(environ: dict[str, Any]) -> str:
    method, query = environ["REQUEST_METHOD"], environ["QUERY_STRING"]
    if method == "DELETE" or (method == "POST" and query.startswith("delete")):
        return FREE
    return PUT_LIKE if method in ("PUT", "POST") or "list-type" in query else GET_LIKE


def _lose(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    with contextlib.suppress(OSError):
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    start_response("500 lost", [])
    return []


@contextlib.contextmanager
def serving() -> Iterator[FaultyStore]:
    """Serves an empty bucket while a block runs."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    store = FaultyStore(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, store, threaded=True)
    store.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, name="moto", daemon=True).start()
    try:
        yield store
    finally:
        server.shutdown()
