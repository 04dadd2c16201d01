"""Tasks of the compiled pipeline as containers of this machine.

Each is one `docker run` under the same guard as a process, so that logs, progress, signals and exit statuses are the
same.
"""

import json
import os
import secrets
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipelines.ir import Task
from pipelines.local import engine_builders
from pipelines.local.docker_engine import Engine, docker, image_id
from pipelines.local.processes import Running, start_guarded
from reid.errors import PipelineError
from reid.files.secrets import encryption_key

LABEL = "reid.results"
"""Label of every container: the results folder it writes to."""
PASSED_ON = (
    *("MLFLOW_", "REID_", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION"),
    *("HF_TOKEN", "HF_ENDPOINT", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "GOMP_SPINCOUNT"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)
"""Prefixes of the variables that a task gets; only their names are on the command line, for values can be secret."""
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
DOCKER_UNITS = {"Ki": "k", "Mi": "m", "Gi": "g"}
"""Kubernetes' binary units, as Docker writes them."""

Mounts = Callable[[str], Mapping[Path, bool]]
"""Stage -> path -> whether it may write there."""


class Containers:
    """Runs tasks in containers that end at the latest with this process."""

    def __init__(
        self,
        engine: Engine,
        results: Path,
        *,
        mounts: Mounts,
        environment: Mapping[str, str],
        keep_open: Sequence[int] = (),
    ) -> None:
        """`environment` goes to every task. Containers that an earlier run could not end are removed first."""
        self._engine, self._results = engine, results
        self._mounts, self._environment, self._keep_open = mounts, environment, tuple(keep_open)
        self._images: dict[str, str] = {}
        for container in docker("ps", "--all", "--quiet", "--filter", f"label={LABEL}={results}").split():
            docker("rm", "--force", container)

    def identity(self, task: Task) -> dict[str, str]:
        """What decides a result apart from its inputs: the image, which holds the code and every package, and for an
        engine the GPUs.
        """
        parts = {"image": self._image(task)}
        if task.stage == engine_builders.STAGE:
            parts["gpus"] = engine_builders.gpus_here() if self._gets_gpus(task) else "none"
        return parts | ({"encryption": "on"} if encryption_key() else {})

    def _gets_gpus(self, task: Task) -> bool:
        return task.accelerator and self._engine.gpus

    def _image(self, task: Task) -> str:
        """The id of the task's image when it was first asked for: a tag that moves changes nothing in this run."""
        if task.image not in self._images:
            found = image_id(task.image)
            if found is None:
                raise PipelineError(f"{task.stage}: no image {task.image} here\n  want: make images, or docker pull")
            self._images[task.image] = found
        return self._images[task.image]

    def start(
        self, task: Task, *, executor_input: Mapping[str, Any], log: Path, environment: Mapping[str, str]
    ) -> Running:
        """Starts the task's container; it ends at the latest with this process."""
        name = f"reid-{task.stage}-{secrets.token_hex(6)}"
        given = {**self._environment, **task.environment, **environment}
        words = [word.replace("{{$}}", json.dumps(executor_input)) for word in task.command]
        command = ["docker", "run", "--name", name, *self._options(task, given), self._image(task), *words]
        return start_guarded(
            task.stage,
            command,
            log=log,
            environment={**os.environ, **given},
            keep_open=self._keep_open,
            container=name,
        )

    def _options(self, task: Task, environment: Mapping[str, str]) -> list[str]:
        user = "0:0" if self._engine.rootless else f"{os.getuid()}:{os.getgid()}"
        options = ["--rm", "--init", "--pull=never", "--log-driver=none", f"--label={LABEL}={self._results}"]
        options += [f"--user={user}", "--cap-drop=ALL", "--security-opt=no-new-privileges", f"--workdir={Path.cwd()}"]
        if self._engine.selinux:
            options.append("--security-opt=label=disable")
        if urlsplit(environment.get("MLFLOW_TRACKING_URI", "")).hostname in LOOPBACK:
            options.append("--network=host")
        if task.shared_memory:
            options.append(f"--shm-size={docker_size(task.shared_memory)}")
        if self._gets_gpus(task):
            options.append("--gpus=all")  # the stage takes those that its spec names
        for path, writable in sorted(self._mounts(task.stage).items()):
            options.append(f"--mount={bind(path, writable=writable)}")
        passed_on = {variable for variable in os.environ if variable.startswith(PASSED_ON)}
        options += [f"--env={variable}" for variable in sorted(passed_on | set(environment))]
        return options + shlex.split(os.environ.get("DOCKER_ARGS", ""))


def docker_size(size: str) -> str:
    """2Gi, as Kubernetes writes it, the way Docker does: 2g; a plain number of bytes stays."""
    return size[:-2] + DOCKER_UNITS[size[-2:]] if size[-2:] in DOCKER_UNITS else size


def bind(path: Path, *, writable: bool) -> str:
    """The mount of a path under its own name; fields of CSV, so a comma in it needs quotes."""
    fields = ["type=bind", f"source={path}", f"target={path}", *([] if writable else ["readonly"])]
    return ",".join('"{}"'.format(field.replace('"', '""')) if {",", '"'} & set(field) else field for field in fields)
