"""Docker as its command line shows it: what the daemon is, and which images it has."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from reid.errors import PipelineError

ANSWER_S = 20.0
WITHOUT = "RUNNER=process needs no containers"
GPU_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
"""What the driver shows on Linux, and under Windows' Linux."""


@dataclass(frozen=True)
class Engine:
    """The daemon that answers."""

    rootless: bool
    """Root inside a container is the user outside: files belong to the right one without --user."""
    selinux: bool
    gpus: bool
    """Containers can be given the GPUs of this machine."""


class DockerFailed(PipelineError):
    """A docker command failed; `said` is its last line."""

    def __init__(self, command: str, said: str) -> None:
        super().__init__(f"{command}: {said}")
        self.said = said


def docker(*arguments: str, timeout_s: float | None = ANSWER_S) -> str:
    """What `docker ARGUMENTS…` prints; DockerFailed where it fails, PipelineError where there is no Docker."""
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
    """The daemon; PipelineError where none answers."""
    try:
        info = json.loads(docker("info", "--format", "{{json .}}"))
        trouble = next(iter(info.get("ServerErrors") or []), "")  # older clients end well and say it here
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
    """The id of an image that is here, sha256:…; None where it is not."""
    try:
        return docker("image", "inspect", "--format", "{{.Id}}", name)
    except DockerFailed as error:
        if "no such image" in error.said.lower():
            return None
        raise


def image_label(name: str, label: str) -> str:
    """A label of an image that is here; empty where it has no such label."""
    return docker("image", "inspect", "--format", f'{{{{index .Config.Labels "{label}"}}}}', name)
