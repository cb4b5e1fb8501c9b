"""Builds the image with buildah on a base from debootstrap, and starts programs in it; needs root, no container engine.

The isolation is chroot: the network is the host's, so a published port is the front door's own.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.daemon import REPOSITORY, RelayDaemon

HERE = Path(__file__).parent
UID = 10025
DATA = "/var/lib/relay"
_BUILD_S = 1500
_PIP = ("/etc/pip.conf", "/root/.config/pip/pip.conf", "/root/.pip/pip.conf")
_CERTIFICATES = "/etc/ssl/certs"


def missing() -> str:
    """Why the image cannot be built here; "" if it can."""
    if os.geteuid() != 0:
        return "needs root"
    absent = [program for program in ("buildah", "debootstrap", "unshare") if shutil.which(program) is None]
    return f"needs {', '.join(absent)}" if absent else ""


class Image:
    """The image and a container of it, in a storage of their own below `folder`; `close` removes all.

    `base` is the root file system it was built on, `root` its own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        driver = os.environ.get("STORAGE_DRIVER", "overlay")
        conf = folder / "storage.conf"
        conf.write_text(
            f'[storage]\ndriver = "{driver}"\ngraphroot = "{folder / "graph"}"\nrunroot = "{folder / "run"}"\n'
        )
        self._environ = {**os.environ, "CONTAINERS_STORAGE_CONF": str(conf)}
        self._build()
        self._begin()

    def another(self) -> Image:
        """The same image with another container: nothing was ever mounted below its `root`."""
        other = copy.copy(self)
        other._begin()
        return other

    def buildah(self, *arguments: str) -> str:
        """What a buildah command prints; AssertionError with its last lines if it fails."""
        done = subprocess.run(
            ["buildah", *arguments], env=self._environ, capture_output=True, text=True, timeout=_BUILD_S, check=False
        )
        assert done.returncode == 0, "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        return done.stdout.strip()

    def config(self) -> dict[str, Any]:
        """The image's configuration, as an engine reads it."""
        inspected = json.loads(self.buildah("inspect", "--type", "image", "localhost/relay"))
        found: dict[str, Any] = inspected["Docker"]["config"]
        return found

    def running(self, data: Path, environ: Mapping[str, str], *program: str) -> list[str]:
        """The command that runs `program` in the container as the image's user, with `data` as its volume."""
        settings = [word for name, value in environ.items() for word in ("--env", f"{name}={value}")]
        return [
            *("env", f"CONTAINERS_STORAGE_CONF={self._environ['CONTAINERS_STORAGE_CONF']}"),
            *("buildah", "run", "--isolation", "chroot", "--user", f"{UID}:{UID}"),
            *("--cap-drop", "all", "--volume", f"{data}:{DATA}", *settings, self._container, "--", *program),
        ]

    def close(self) -> None:
        """Unmount and remove everything."""
        self.buildah("rm", "--all")
        self.buildah("rmi", "--all", "--force")

    def _begin(self) -> None:
        self._container = self.buildah("from", "--pull-never", "localhost/relay")
        self.root = Path(self.buildah("mount", self._container))

    def _build(self) -> None:
        base = os.environ.get("IMAGE_TEST_BASE")  # a folder that debootstrap filled before
        self.base = Path(base) if base else self._bootstrap()
        container = self.buildah("from", "scratch")
        self.buildah("add", "--quiet", container, str(self.base), "/")
        self.buildah("commit", "--quiet", container, "localhost/base")
        self.buildah("rm", container)
        mounts = [path for path in (_CERTIFICATES, *_PIP) if Path(path).exists()]
        self.buildah(
            *("bud", "--isolation", "chroot", "--format", "docker", "--layers=false", "--pull-never"),
            *("--build-arg", "BASE=localhost/base"),
            *(word for path in mounts for word in ("--volume", f"{path}:{path}:ro")),
            *("--tag", "localhost/relay", str(REPOSITORY)),
        )

    def _bootstrap(self) -> Path:
        """Debian as this machine's, from where its packages come."""
        targets = subprocess.run(
            [
                "apt-get",
                "indextargets",
                "--format",
                "$(CODENAME) $(REPO_URI)",
                "Created-By: Packages",
                "Origin: Debian",
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        release = Path("/etc/os-release").read_text()
        codename = next(line.partition("=")[2] for line in release.splitlines() if line.startswith("VERSION_CODENAME="))
        mirror = next(line.split()[1] for line in targets.splitlines() if line.split()[0] == codename)
        folder = self._folder / "base"
        packages = "python3,python3-venv,ca-certificates,tini,systemd-sysv,dbus"  # the last two for the unit's test
        done = subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={packages}", codename, str(folder), mirror],
            capture_output=True,
            text=True,
            timeout=_BUILD_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-2000:]
        return folder


class ContainedRelay(RelayDaemon):
    """`relay serve` in a container of `image`; `data` is its volume."""

    def __init__(self, image: Image, data: Path, settings: Mapping[str, str]) -> None:
        super().__init__(data, settings)
        self.image = image

    def command(self, *arguments: str) -> list[str]:
        """In the container, as its entry point would start it."""
        return self.image.running(self.data, self._given(), "tini", "-s", "--", "relay", *arguments)

    def environment(self) -> dict[str, str]:
        """Of the engine: its own affair, the container gets the settings only."""
        return {"PATH": os.environ["PATH"]}

    def signal(self, number: signal.Signals) -> None:
        """To tini, as an engine does: it is the parent of the process that wrote the log."""
        own = next(event["pid"] for event in reversed(self.events) if event["event"] == "daemon.started")
        os.kill(parent_of(own), number)

    def _given(self) -> dict[str, str]:
        return {"RELAY_LISTENER__PORT": str(self.port), "RELAY_CONSOLE__PORT": "0"} | self._settings


class FirstProcess(ContainedRelay):
    """The same as process 1 of a PID namespace on a read-only root; commands come from a container beside it."""

    def command(self, *arguments: str) -> list[str]:
        """Only the daemon is process 1."""
        if arguments != ("serve",):
            return super().command(*arguments)
        return first_process(self.image, str(self.data), self._given(), "tini", "-s", "--", "relay", "serve")

    def signal(self, number: signal.Signals) -> None:
        """To process 1 itself."""
        os.kill(self.first, number)

    @property
    def first(self) -> int:
        """Process 1, by its number outside."""
        return int(Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()[0])


def first_process(
    image: Image, data: str, environ: Mapping[str, str], *program: str, binds: Mapping[Path, str] | None = None
) -> list[str]:
    """The command that runs `program` as process 1 on the read-only root of `image`; `data` "none": no volume.

    `binds`: further folders and where they are inside, read-only.
    """
    settings = [f"{name}={value}" for name, value in environ.items()]
    image_environ = image.config()["Env"]
    bound = " ".join(f"{outside}:{inside}" for outside, inside in (binds or {}).items())
    return [
        *("env", f"BINDS={bound}"),
        *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"),
        *("sh", str(HERE / "as-container"), str(image.root), data),
        *("env", "-i", *image_environ, *settings, *program),
    ]


def parent_of(pid: int) -> int:
    """Its parent's number."""
    return int(status_of(pid)["PPid"])


def status_of(pid: int) -> dict[str, str]:
    """/proc/<pid>/status, by name."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
