"""Images without an engine or a registry: debootstrap makes a base, buildah builds and runs."""

from __future__ import annotations

import ast
import configparser
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOLS = ("buildah", "debootstrap")
PYTHON, SUITE = "3.11", "bookworm"
"""The Dockerfiles' Python, and the release of Debian whose Python that is."""
BASE = f"docker.io/library/python:{PYTHON}-slim"
PACKAGES = (f"python{PYTHON}", f"python{PYTHON}-venv", "python3-pip", "ca-certificates")


def lacking() -> str:
    """Returns what this machine lacks to build images, or nothing."""
    missing = [name for name in TOOLS if shutil.which(name) is None]
    if sys.platform != "linux" or os.geteuid() != 0:
        missing.append("Linux's root")
    return ", ".join(missing)


@dataclass(frozen=True)
class Builder:
    """Images and containers of a folder, apart from any others of this machine.

    Attributes:
        folder: Where they lie.
    """

    folder: Path

    def __call__(self, *words: str, seconds: float = 600) -> str:
        """Runs a command of buildah, and returns what it said on stdout.

        Raises:
            CalledProcessError: It failed; stderr, uncaught, says why.
            TimeoutExpired: It took longer than it may.
        """
        done = subprocess.run(
            [*self._buildah, *words], stdout=subprocess.PIPE, text=True, check=True, timeout=seconds
        )
        return done.stdout.strip()

    @property
    def _buildah(self) -> tuple[str, ...]:
        return ("buildah", "--root", f"{self.folder}/images", "--runroot", f"{self.folder}/run")

    def make_python(self) -> None:
        """Makes what Dockerfiles call `python:3.11-slim`, of Debian's packages."""
        container = self("from", "scratch")
        root = Path(self("mount", container))
        # The mirror is debootstrap's own.
        subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, root],
            stdout=subprocess.DEVNULL,
            check=True,
        )
        shutil.rmtree(root / "var/cache/apt")
        # As in the image of that name: pip installs for all, and Python is called `python`.
        (root / f"usr/lib/python{PYTHON}/EXTERNALLY-MANAGED").unlink(missing_ok=True)
        (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        path = "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
        self("config", "--env", path, "--env", "LANG=C.UTF-8", "--cmd", "python3", container)
        self("umount", container)
        self("commit", "--quiet", "--rm", container, BASE)

    def make_empty(self, name: str, path: str) -> None:
        """Makes an image of nothing but an empty folder, for a stage that no registry gives."""
        container = self("from", "scratch")
        Path(self("mount", container), path).mkdir(parents=True)
        self("umount", container)
        self("commit", "--quiet", "--rm", container, name)

    def build(self, dockerfile: Path, name: str, seconds: float) -> None:
        """Builds a Dockerfile of the project as it is, with this machine's settings of pip."""
        self(
            *("build", "--isolation", "chroot", "--network", "host", "--layers=false"),
            *("--pull-never", "--quiet", *self._pip(), "--tag", name),
            *("--file", str(dockerfile), str(ROOT)),
            seconds=seconds,
        )

    def _pip(self) -> Iterator[str]:
        """Mounts what pip is told on this machine, and the files that it names, in a build."""
        command = [sys.executable, "-m", "pip", "config", "list"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        settings = configparser.RawConfigParser()
        settings.add_section("global")
        mounts = {Path("/etc/pip.conf"): self.folder / "pip.conf"}
        for line in said.splitlines():
            name, _, quoted = line.partition("=")
            value = str(ast.literal_eval(quoted))
            settings["global"][name.rpartition(".")[2]] = value.replace("\n", "\n ")
            for word in value.split():
                path = Path(word.removeprefix("file://"))
                # An index of files lists those that lie beside it.
                path = path.parent if word.startswith("file://") else path
                if path.is_absolute() and path.exists():
                    mounts[path] = path
        with (self.folder / "pip.conf").open("w") as file:
            settings.write(file)
        for inside, outside in mounts.items():
            yield from ("--volume", f"{outside}:{inside}:ro")

    def settings(self, image: str) -> dict[str, object]:
        """Returns what an image says of itself, as OCI writes it."""
        config: dict[str, object] = json.loads(self("inspect", "--type", "image", image))["OCIv1"]
        return config

    @contextlib.contextmanager
    def running(
        self, container: str, *command: str, shared: Path, env: Mapping[str, str] | None = None
    ) -> Iterator[subprocess.Popen[str]]:
        """Runs a command of a container while a block runs.

        Args:
            container: Its name.
            command: The command; begins in `/`, not in the sources.
            shared: A folder that it sees at the same place as this process.
            env: Variables beside the image's.
        """
        variables = [f"{name}={value}" for name, value in (env or {}).items()]
        given = [word for variable in variables for word in ("--env", variable)]
        flags = ("--isolation", "chroot", "--network", "host", "--workingdir", "/")
        words = ("run", *flags, "--volume", f"{shared}:{shared}", *given, container, "--")
        process = subprocess.Popen(
            [*self._buildah, *words, *command], start_new_session=True, text=True
        )
        try:
            yield process
        finally:
            _end(process)

    def clear(self) -> None:
        """Removes every container and image, and their folder."""
        self("rm", "--all")
        self("rmi", "--all", "--force")
        subprocess.run(["umount", "--quiet", f"{self.folder}/images/overlay"], check=False)
        shutil.rmtree(self.folder)


def _end(process: subprocess.Popen[str]) -> None:
    """Ends a process and its children, gently as long as that may take."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
            return
