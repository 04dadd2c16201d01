"""Docker, by its command line: what the daemon can do, and which images it has."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from reid.errors import PipelineError

ANSWER_S = 20.0
WITHOUT = "RUNNER=process needs no containers"
GPU_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
"""Devices that the driver makes on Linux, and on Linux under Windows."""


@dataclass(frozen=True)
class Engine:
    """What the Docker daemon can do."""

    rootless: bool
    """Root inside a container is the user outside, so files belong to the right user without --user."""
    selinux: bool
    gpus: bool
    """Containers can be given the GPUs of this machine."""


class DockerFailed(PipelineError):
    """A docker command failed; `said` is its last line."""

    def __init__(self, command: str, said: str) -> None:
        super().__init__(f"{command}: {said}")
        self.said = said


def docker(*arguments: str, timeout_s: float | None = ANSWER_S) -> str:
    """What `docker ARGUMENTS…` prints. Raises DockerFailed if it fails, PipelineError if there is no Docker."""
    command = f"docker {' '.join(arguments[:2])}"
    try:
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout_s, check=False)
    except FileNotFoundError:
        raise PipelineError(f"RUNNER=docker: no `docker` command here\n  want: Docker on PATH; {WITHOUT}") from None
    except subprocess.TimeoutExpired:
        raise DockerFailed(command, f"no answer in {timeout_s:.0f} s") from None
    if done.returncode:
        raise DockerFailed(command, (done.stderr.strip() or "failed").splitlines()[-1])
    return done.stdout.strip()


def engine() -> Engine:
    """What the daemon can do. Raises PipelineError if no daemon answers."""
    try:
        info = json.loads(docker("info", "--format", "{{json .}}"))
        trouble = next(iter(info.get("ServerErrors") or []), "")  # older clients exit with 0 and list the error here
    except DockerFailed as error:
        trouble = error.said
    if trouble:
        raise PipelineError(
            f"RUNNER=docker: the Docker daemon does not answer\n  found: {trouble}\n"
            f"  want:  a running daemon that this user may use; {WITHOUT}"
        )
    options = " ".join(info.get("SecurityOptions") or [])
    hook = "nvidia" in info.get("Runtimes", {}) or shutil.which("nvidia-container-runtime-hook") is not None
    return Engine(
        rootless="name=rootless" in options,
        selinux="name=selinux" in options,
        gpus=hook and any(device.exists() for device in GPU_DEVICES),
    )


def image_id(name: str) -> str | None:
    """The id of an image on this machine, sha256:…; None if it is not here."""
    try:
        return docker("image", "inspect", "--format", "{{.Id}}", name)
    except DockerFailed as error:
        if "no such image" in error.said.lower():
            return None
        raise


def image_label(name: str, label: str) -> str:
    """A label of an image on this machine; empty if it has no such label."""
    return docker("image", "inspect", "--format", f'{{{{index .Config.Labels "{label}"}}}}', name)
