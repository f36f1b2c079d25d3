"""One writer a component: a lease that is renewed while the job lives.

On an object store the lease is an object, stale when nobody renewed it for 90 seconds by the
store's own clock. On a local path an operating system lock is held as well; it dies with the
process, so a rerun after SIGKILL starts at once.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from latent_store.errors import LeaseHeldError
from latent_store.storage.location import CONTROL, Location

RENEW_SECONDS = 20.0
STALE_SECONDS = 90.0


class Lease:
    """Holds the right to write one component, as a context manager.

    Args:
        location: The store.
        split: `dataset/split`.
        component: The component's key.
        steal: Take the lease from a holder that is thought dead.
        wait_seconds: Wait this long for another holder to finish before giving up.

    Raises:
        LeaseHeldError: On entering, if another job holds it; names the holder and
            the way to take it over.
    """

    def __init__(
        self,
        location: Location,
        split: str,
        component: str,
        *,
        steal: bool = False,
        wait_seconds: float = 0.0,
    ):
        self.location = location
        self.what = f"{split}/{component}"
        self.key = f"{CONTROL}/{split}/leases/{component.replace('/', '--')}.json"
        self.steal = steal
        self.wait_seconds = wait_seconds
        self.token = uuid4().hex
        self._lock: int | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        deadline = time.monotonic() + self.wait_seconds
        while True:
            try:
                self._take()
                break
            except LeaseHeldError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.2)
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._holder().get("token") == self.token:
            self.location.delete(self.key)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take(self) -> None:
        if self.location.local_path is None:
            self._take_object()
        else:
            self._take_local(self.location.local_path / f"{self.key}.lock")

    def _take_local(self, path: Path) -> None:
        import fcntl

        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            self._lock = None
            # The lock lives exactly as long as its process: it cannot be stale, so not stolen.
            raise self._refusal("end that process first") from None
        self.location.write(self.key, self._record())

    def _take_object(self) -> None:
        if self.location.create(self.key, self._record()):
            return
        try:
            stale = self.location.age_seconds(self.key) > STALE_SECONDS
        except FileNotFoundError:
            stale = True
        if not (stale or self.steal):
            raise self._refusal("wait for it, or give `steal_lease=` if you know that it is dead")
        self.location.write(self.key, self._record())
        # Two jobs may find the same stale lease; the one whose record stays wins.
        time.sleep(1.0)
        if self._holder().get("token") != self.token:
            raise self._refusal("another job took it at the same moment")

    def _refusal(self, remedy: str) -> LeaseHeldError:
        holder = self._holder()
        pid, host, since = (holder.get(name, "?") for name in ("pid", "host", "since"))
        return LeaseHeldError(
            f"{self.what} is being written by process {pid} on {host} (since {since}); {remedy}"
        )

    def _record(self) -> bytes:
        record = {
            "token": self.token,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        return json.dumps(record).encode()

    def _holder(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self.location.read(self.key)))
        except (FileNotFoundError, ValueError):
            return {}

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_SECONDS):
            if self._holder().get("token") == self.token:
                self.location.write(self.key, self._record())
