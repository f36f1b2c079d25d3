"""One writer a component: a lease that is renewed while the job lives.

The lease is an object that says who holds it, stale when nobody renewed it for 90 seconds by the
store's own clock. On a local path an operating system lock is held as well; it dies with the
process, so a rerun after SIGKILL starts at once. Each holder has a higher fencing number than those
before it. Its workers ask before they write whether the lease is still theirs: a job that was
suspended, or whose store was away, adds nothing to what its successor makes.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from latent_store.errors import LeaseHeldError, LeaseLostError
from latent_store.storage.ages import (
    age_seconds,
    asks_with_probes,
    delete_probes,
    read_with_age,
)
from latent_store.storage.location import CONTROL, Location

RENEW_SECONDS = 20.0
STALE_SECONDS = 90.0
SETTLE_SECONDS = 1.0
LARGEST_RECORD = 2**12
"""In bytes, of a lease and of a fencing number."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, kw_only=True)
class LeaseClaim:
    """A lease as workers know it, wherever they run: small, picklable, and asked before writing.

    Attributes:
        what: What the lease is for, for messages.
        key: The lease's object.
        token: Of the holder, nobody else's.
        fence: The fencing number.
    """

    location: Location
    what: str
    key: str
    token: str
    fence: int

    def require(self) -> None:
        """Refuses to go on where the lease was taken over or not renewed for too long.

        Raises:
            LeaseLostError: Names who holds it now.
        """
        holder, age = self._look()
        if holder.get("token") != self.token:
            raise self._lost_to(holder)
        if age > STALE_SECONDS:
            raise LeaseLostError(
                f"the right to write {self.what} lapsed: nobody renewed it for {STALE_SECONDS:.0f} "
                "seconds, so that others may take it; run the same command again"
            )

    def _look(self) -> tuple[dict[str, Any], float]:
        """Returns who holds the lease, and for how many seconds nobody has renewed it."""
        try:
            if self.location.local_path is None:
                with contextlib.suppress(ValueError):
                    data, age = read_with_age(self.location, self.key, LARGEST_RECORD)
                    return _parsed(data), age
                return {}, 0.0
            holder = read_holder(self.location, self.key)
            # On the holder's machine the lock keeps others out, however late it is.
            if not holder or holder.get("machine") == _machine():
                return holder, 0.0
            return holder, age_seconds(self.location, self.key)
        except FileNotFoundError:
            # Released, or taken and released, since it was read.
            return {}, 0.0

    def _lost_to(self, holder: dict[str, Any]) -> LeaseLostError:
        return LeaseLostError(
            f"the right to write {self.what} was lost to {_named(holder)}: this job was "
            "suspended, or its store away, and writes nothing more; when that one has ended, "
            "run the same command again if anything is missing"
        )


class Lease:
    """Holds the right to write one component, as a context manager.

    Args:
        location: The store.
        split: `dataset/split`.
        component: The component's key.
        steal: Take the lease from a holder that is thought dead.
        wait_seconds: Wait this long for another holder to finish before giving up.
        fenced: Whether the holder has a number, for `claim`; who writes alone, and at once, what it
            was taken for needs none.

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
        fenced: bool = True,
    ):
        self.location = location
        self.what = f"{split}/{component}"
        self.key = f"{CONTROL}/{split}/leases/{component.replace('/', '--')}.json"
        self.steal = steal
        self.wait_seconds = wait_seconds
        self.fenced = fenced
        self.token = uuid4().hex
        self.fence = 0
        self._since = ""
        self._lock: int | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def claim(self) -> LeaseClaim:
        """The lease as workers know it; entered before."""
        return LeaseClaim(
            location=self.location,
            what=self.what,
            key=self.key,
            token=self.token,
            fence=self.fence,
        )

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
        self._release()

    def _release(self) -> None:
        try:
            # What cannot be released goes stale; the work is done all the same. Clients of object
            # stores raise what they like.
            with contextlib.suppress(Exception):
                if self._is_mine():
                    self.location.delete(self.key)
        finally:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def _take(self) -> None:
        self._since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with contextlib.ExitStack() as unless_taken:
            # What was taken before a request failed would keep others out.
            unless_taken.callback(self._release)
            if self.location.local_path is None:
                self._take_object()
            else:
                self._take_local(self.location.local_path / f"{self.key}.lock")
            if self.fenced:
                # A number that outlives every holder, or each would begin with 1.
                key = f"{self.key.removesuffix('.json')}.fence"
                self.fence = 1 + _read_fence(self.location, key)
                self.location.write(key, str(self.fence).encode())
                if asks_with_probes(self.location):
                    delete_probes(self.location, self.key)
            if self.fenced or self.location.local_path is not None:
                self.location.write(self.key, self._record())
            unless_taken.pop_all()

    def _take_local(self, path: Path) -> None:
        import fcntl

        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # The lock lives exactly as long as its process: it cannot be stale, so not stolen.
            raise self._refusal("end that process first") from None
        # Locks of another machine that shares the folder may not be seen here: its record is.
        # A record of this machine without a lock is that of a process that died.
        holder = read_holder(self.location, self.key)
        if holder and holder.get("machine") != _machine() and not self._may_take():
            raise self._refusal(self._remedy())

    def _take_object(self) -> None:
        # A request whose answer was lost is made again by clients, and finds what it wrote.
        if self.location.create(self.key, self._record()) or self._is_mine():
            return
        if not self._may_take():
            raise self._refusal(self._remedy())
        self.location.write(self.key, self._record())
        # Two jobs may find the same stale lease; the one whose record stays wins.
        time.sleep(SETTLE_SECONDS)
        if not self._is_mine():
            raise self._refusal("another job took it at the same moment")

    def _may_take(self) -> bool:
        """Tells whether a lease that is there is stale, or is to be taken whatever it is."""
        try:
            return self.steal or age_seconds(self.location, self.key) > STALE_SECONDS
        except FileNotFoundError:
            return True

    def _remedy(self) -> str:
        left = STALE_SECONDS
        with contextlib.suppress(FileNotFoundError):
            left = max(1.0, STALE_SECONDS - age_seconds(self.location, self.key))
        return (
            f"wait for it (if it is dead, run this again in {left:.0f} seconds), or give "
            "`steal_lease=` if you know that it is dead"
        )

    def _refusal(self, remedy: str) -> LeaseHeldError:
        holder = read_holder(self.location, self.key)
        who = _named(holder) if holder else "a process that has just begun, or ends"
        return LeaseHeldError(f"{self.what} is being written by {who}; {remedy}")

    def _record(self) -> bytes:
        record = {
            "token": self.token,
            "fence": self.fence,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "machine": _machine(),
            "since": self._since,
        }
        return json.dumps(record).encode()

    def _is_mine(self) -> bool:
        return read_holder(self.location, self.key).get("token") == self.token

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_SECONDS):
            try:
                if not self._is_mine():
                    return  # Whoever is asked for the claim says so.
                self.location.write(self.key, self._record())
            except Exception:  # noqa: BLE001  (clients of object stores raise what they like)
                # A request that failed is made again at the next turn; there are four.
                continue


def read_holder(location: Location, key: str) -> dict[str, Any]:
    """Returns what a lease says about its holder; nothing where nobody holds it."""
    try:
        return _parsed(location.read(key, LARGEST_RECORD))
    except (FileNotFoundError, ValueError):
        return {}


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        holder = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _read_fence(location: Location, key: str) -> int:
    try:
        return max(0, int(location.read(key, LARGEST_RECORD)[:18]))
    except (FileNotFoundError, ValueError):
        return 0


def _named(holder: dict[str, Any]) -> str:
    if not holder:
        return "nobody, its lease is gone"
    pid, host, since = (holder.get(name, "?") for name in ("pid", "host", "since"))
    return f"process {pid} on {host} (since {since})"


def _machine() -> str:
    """Returns what tells running kernels apart: on one of them a lock is seen by all processes."""
    with contextlib.suppress(OSError):
        return _BOOT_ID.read_text().strip()
    return socket.gethostname()
