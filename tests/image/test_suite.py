"""The tests themselves inside the image: no root, a read-only root, no capability, the libraries that it ships.

`make image-suite`; IMAGE_SUITE holds what to run (default: unit, contract, wire and system tests).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.daemon import REPOSITORY
from tests.image.engine import DATA, UID, Image, first_process, missing

pytestmark = [
    pytest.mark.skipif("IMAGE_SUITE" not in os.environ, reason="the tests run in the image by `make image-suite`"),
    pytest.mark.skipif(missing() != "", reason=missing()),
    pytest.mark.timeout(3600),
]
_SUITE, _LIBRARIES = "/suite", "/test-libraries"
_EVERYTHING = "tests/unit tests/contract tests/wire tests/system"
# Behind what the image ships: of a library that both have, the image's counts.
_RUN = "; ".join(
    (
        f"import sys; sys.path[:0] = [{_SUITE!r}]; sys.path.append({_LIBRARIES!r})",
        "import pytest; sys.exit(pytest.main())",
    )
)


@pytest.fixture
def inside(image: Image) -> Image:
    """A container that only the suite runs in: what other tests mounted, a key for one, left its mount point."""
    return image.another()


@pytest.fixture
def suite(inside: Image, tmp_path: Path) -> Path:
    """The checkout without the program: in its place is the image's."""
    folder = tmp_path / "suite"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True).stdout
    for name in tracked.decode().rstrip("\0").split("\0"):
        if not name.startswith("relay/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    [package] = inside.root.glob("opt/relay/lib/python3*/site-packages/relay")
    (folder / "relay").symlink_to(f"/{package.relative_to(inside.root)}")
    subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)
    return folder


@pytest.fixture
def libraries(inside: Image, tmp_path: Path) -> Path:
    """pytest and all else that tests need, locked, for the image's Python."""
    [python] = inside.root.glob("opt/relay/lib/python3*")
    folder = tmp_path / "libraries"
    install = ("install", "--quiet", "--disable-pip-version-check", "--no-compile", "--target", str(folder))
    chosen = ("--require-hashes", "--only-binary", ":all:", "--python-version", python.name.removeprefix("python"))
    locked = ("-r", str(REPOSITORY / "requirements" / "dev.txt"))
    subprocess.run([sys.executable, "-m", "pip", *install, *chosen, *locked], check=True)
    subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)
    return folder


def test_the_tests_pass_inside(inside: Image, suite: Path, libraries: Path, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    (volume / "tmp").mkdir(mode=0o700, parents=True)
    for folder in (volume, volume / "tmp"):
        os.chown(folder, UID, UID)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != folder.parent and folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o111)
    environ = {
        "HOME": f"{DATA}/tmp",
        "TMPDIR": f"{DATA}/tmp",
        "HYPOTHESIS_STORAGE_DIRECTORY": f"{DATA}/tmp/hypothesis",
        "PYTEST_ADDOPTS": f"-n 2 -p no:cacheprovider --rootdir={_SUITE} -rfEs --basetemp={DATA}/tmp/pytest"
        f" --junitxml={DATA}/tmp/junit.xml --tb=short",
    }
    named = os.environ["IMAGE_SUITE"].split() if os.environ["IMAGE_SUITE"] not in ("", "yes") else _EVERYTHING.split()
    program = ("env", "-C", _SUITE, "-u", "RELAY_DATA_DIR", "-u", "RELAY_LOG__FORMAT")
    command = first_process(
        inside,
        str(volume),
        environ,
        *(*program, "tini", "-s", "--", "/opt/relay/bin/python", "-c", _RUN, *named),
        binds={suite: _SUITE, libraries: _LIBRARIES},
    )
    done = subprocess.run(command, timeout=3500, check=False)  # its own report goes where ours goes
    counts = ElementTree.parse(volume / "tmp" / "junit.xml").getroot()[0].attrib
    assert done.returncode == 0, {name: counts[name] for name in ("tests", "failures", "errors", "skipped")}
    assert int(counts["tests"]) - int(counts["skipped"]) > 0
