"""A real Docker daemon and base images for the container tests.

Where no daemon answers one is started (as root, with Debian's docker.io), under a folder of its own that is removed at
the end. Two workers share it: whoever started it stops it when the other is done. Without Docker the tests fail;
REID_TEST_DOCKER=no leaves them out, and pytest says so.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines.local.processes import GUARD

FOLDER = Path(tempfile.gettempdir()) / "reid-test-docker"
SOCKET = FOLDER / "docker.sock"
PYTHON, TORCH = "reid-test/python:bookworm", "reid-test/python-torch:bookworm"
WITHOUT = "REID_TEST_DOCKER=no leaves the container tests out"


def docker(*arguments: str) -> str:
    """What the docker command prints; it must end well."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def answers() -> bool:
    """Whether a daemon answers at DOCKER_HOST, or at the usual place."""
    return subprocess.run(["docker", "version"], capture_output=True, check=False).returncode == 0


@contextmanager
def held(name: str, how: int) -> Iterator[int]:
    """Holds a lock file of all workers."""
    FOLDER.mkdir(exist_ok=True)
    descriptor = os.open(FOLDER / name, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, how)
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.fixture(scope="session")
def docker_daemon() -> Iterator[None]:
    """A daemon that answers for as long as any test needs it."""
    if os.environ.get("REID_TEST_DOCKER") == "no":
        pytest.skip("REID_TEST_DOCKER=no: nothing was run in a container")
    if shutil.which("docker") is None:
        pytest.fail(f"no docker command here: apt-get install docker.io debootstrap; {WITHOUT}")
    started = None
    before = os.environ.get("DOCKER_HOST")
    with held("starting", fcntl.LOCK_EX):
        if not answers():
            os.environ["DOCKER_HOST"] = f"unix://{SOCKET}"
        if not answers():
            started = start()
        users = os.open(FOLDER / "users", os.O_RDWR | os.O_CREAT)
        fcntl.flock(users, fcntl.LOCK_SH)
    yield
    if started:
        fcntl.flock(users, fcntl.LOCK_EX)  # until the other workers are done
        os.killpg(started.pid, signal.SIGTERM)
        started.communicate(timeout=60)
        shutil.rmtree(FOLDER, ignore_errors=True)
    os.close(users)
    if before is None:
        os.environ.pop("DOCKER_HOST", None)


def start() -> "subprocess.Popen[bytes]":
    """A daemon that ends at the latest with this process."""
    if os.geteuid() or shutil.which("dockerd") is None:
        pytest.fail(f"no Docker daemon answers, and only root with docker.io installed can start one; {WITHOUT}")
    places = ["--data-root", "data", "--exec-root", "exec", "--pidfile", "pid"]
    options = [word if word.startswith("--") else str(FOLDER / word) for word in places]
    with (FOLDER / "log").open("wb") as log:
        daemon = subprocess.Popen(
            [sys.executable, str(GUARD), "dockerd", *options, "--host", f"unix://{SOCKET}"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    give_up_at = time.monotonic() + 60
    while not answers():
        if daemon.poll() is not None or time.monotonic() > give_up_at:
            pytest.fail(f"dockerd did not start; {WITHOUT}\n{(FOLDER / 'log').read_text()[-2000:]}")
        time.sleep(0.2)
    return daemon


def python_image() -> str:
    """An image with Python 3.11 and nothing else: bootstrapped, where debootstrap is there and this is root."""
    with held("python", fcntl.LOCK_EX):
        if not docker("images", "--quiet", PYTHON):
            if os.geteuid() or shutil.which("debootstrap") is None:
                docker("pull", "python:3.11-slim-bookworm")
                docker("tag", "python:3.11-slim-bookworm", PYTHON)
            else:
                # with the compiler: a build without a network could not install it
                packages = "--include=python3,python3-venv,ca-certificates,g++,libpython3-dev"
                command = ["debootstrap", "--variant=minbase", packages, "bookworm", str(FOLDER / "root")]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                assert done.returncode == 0, done.stdout[-2000:]
                import_image(f"tar --directory={FOLDER}/root --create .", PYTHON)
    return PYTHON


def torch_image() -> str:
    """The same with this environment's PyTorch: a BASE that brings its own, so that a build needn't fetch gigabytes.

    cuDNN's engines and other libraries that a CPU never loads are left out. Where the system's Python is another one
    than this, the image without PyTorch will do: the build then takes its wheels.
    """
    base = python_image()
    root = FOLDER / "root"
    packages = Path(sysconfig.get_path("purelib"))
    if not (root / "usr" / "bin" / f"python3.{sys.version_info.minor}").exists():
        return base
    with held("torch", fcntl.LOCK_EX):
        if not docker("images", "--quiet", TORCH):
            names = ["functorch", "torch", "torchgen", "torchvision", "torchvision.libs", "nvidia"]
            names += [
                path.name for path in packages.glob("torch*.dist-info") if path.name.startswith(("torch-", "torchv"))
            ]
            there = [name for name in names if (packages / name).exists()]
            idle = ["libcudnn_*", "libcusolverMg*", "*.alt.so*", "libnvperf*", "nvidia/*/include"]
            excluded = " ".join(f"--exclude='{pattern}'" for pattern in idle)
            moved = "--transform='s,^[a-z],usr/lib/python3/dist-packages/&,S'"  # S: not what symbolic links lead to
            import_image(
                f"tar --create {excluded} {moved} --directory={root} . --directory={packages} {' '.join(there)}", TORCH
            )
    return TORCH


def import_image(tar: str, name: str) -> None:
    """Makes an image of what this command writes."""
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {tar} | docker import - {name}"], check=False, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
