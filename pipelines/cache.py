"""Where results lie and when they may be used again.

`<results_dir>/pipeline/<stage>/<key>/` holds one task's outputs, its log.txt and executor_output.json; a finished
one has task.json too, which makes it a cached result. Without task.json it is an attempt that was cut short: the
next run with the same key goes on in it. Nothing is ever deleted here but the outputs of a result that is made anew.

A key is a hash of what decides a result: component, input values, content of the input artifacts, code. Content
counts, not time: a file that was copied or touched is the same file.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.ir import Task, Value
from pipelines.task_files import LOG, Artifact, Outputs

FINISHED = "task.json"
NO_RESULT = {LOG, "mlflow.json", "mlflow.jsonl"}
"""Files of an attempt that are not what it made."""
Stamp = tuple[str, int, int]
"""A file's name under its artifact, size in bytes, time of change in nanoseconds."""


@dataclass(frozen=True)
class Result:
    """A finished task, as task.json remembers it."""

    folder: Path
    outputs: Outputs
    digests: Mapping[str, str]
    """Artifact -> SHA-256 of its content."""
    seconds: float


def key_parts(
    task: Task, *, parameters: Mapping[str, Value], digests: Mapping[str, str], code: Mapping[str, str]
) -> dict[str, str]:
    """Everything that a result depends on, by a name that can be shown when it changed."""
    return {
        "component": _sha256(task.signature()),
        **{name: _sha256(json.dumps(value, sort_keys=True)) for name, value in parameters.items()},
        **digests,
        **code,
    }


def key_of(task: Task, parts: Mapping[str, str]) -> str:
    """The name of the folder of a task with these parts."""
    return _sha256(json.dumps([task.stage, dict(parts)], sort_keys=True))[:20]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def stamps(path: Path) -> list[Stamp]:
    """Every file of an artifact, sorted; empty where it is missing, one nameless entry for a single file."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    found = []
    for file in files:
        status = file.stat()
        found.append((file.relative_to(path).as_posix(), status.st_size, status.st_mtime_ns))
    return found


def content_digest(path: Path) -> str:
    """SHA-256 over the names and contents of an artifact's files."""
    total = hashlib.sha256()
    for name, _, _ in stamps(path):
        with (path / name if path.is_dir() else path).open("rb") as stream:
            total.update(f"{name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


class Store:
    """The results folder of one or many runs."""

    def __init__(self, results_dir: Path) -> None:
        self.results_dir = results_dir.absolute()
        self.root = self.results_dir / "pipeline"

    def folder(self, stage: str, key: str) -> Path:
        """Where the outputs of this stage with this key lie."""
        return self.root / stage / key

    def look_up(self, folder: Path) -> Result | None:
        """The finished result in this folder; None where there is none, or where one of its files is gone or differs.

        Size and time of every file are compared; where they differ, the content decides.
        """
        record = _read_json(folder / FINISHED)
        if record is None or self._damaged(folder, record):
            return None
        artifacts = {
            name: Artifact(folder / entry["path"], entry["schema"], entry["metadata"])
            for name, entry in record["artifacts"].items()
        }
        digests = {name: entry["digest"] for name, entry in record["artifacts"].items()}
        return Result(folder, Outputs(record["parameters"], artifacts), digests, record["seconds"])

    def _damaged(self, folder: Path, record: Mapping[str, Any]) -> list[str]:
        """Names of the artifacts that are no longer what was written."""
        damaged = []
        for name, entry in record["artifacts"].items():
            path = folder / entry["path"]
            same = stamps(path) == [tuple(stamp) for stamp in entry["files"]]
            if not same and content_digest(path) != entry["digest"]:
                damaged.append(name)
        return damaged

    def prepare(self, folder: Path, *, afresh: bool) -> bool:
        """Makes the folder ready for an attempt; True where that attempt goes on with what an interrupted one left.

        Of a finished result only the damaged outputs are removed, or all of them where it is to be made `afresh`.
        """
        record = _read_json(folder / FINISHED)
        if record is not None:
            for name in record["artifacts"] if afresh else self._damaged(folder, record):
                _remove(folder / record["artifacts"][name]["path"])
            (folder / FINISHED).unlink()
        (folder / "executor_output.json").unlink(missing_ok=True)
        _remove(folder / "parameters")
        left_over = folder.exists() and any(path.name not in NO_RESULT for path in folder.iterdir())
        (folder / "parameters").mkdir(parents=True)
        return left_over and record is None and not afresh

    def finish(self, folder: Path, *, outputs: Outputs, parts: Mapping[str, str], seconds: float) -> Result:
        """Seals a finished task: digests of its outputs are taken, task.json is written last."""
        files = {name: stamps(artifact.path) for name, artifact in outputs.artifacts.items()}
        digests = {name: content_digest(artifact.path) for name, artifact in outputs.artifacts.items()}
        artifacts = {
            name: {
                "path": artifact.path.relative_to(folder).as_posix(),
                "schema": artifact.schema,
                "metadata": dict(artifact.metadata),
                "digest": digests[name],
                "files": files[name],
            }
            for name, artifact in outputs.artifacts.items()
        }
        write_json(
            folder / FINISHED,
            {"seconds": seconds, "key_parts": dict(parts), "parameters": outputs.parameters, "artifacts": artifacts},
        )
        return Result(folder, outputs, digests, seconds)

    def why_not_cached(self, stage: str, parts: Mapping[str, str]) -> str:
        """Why the stage's latest finished result won't do: "changed: spec, code"; empty where there is none."""
        record = _read_json(self.results_dir / "latest" / stage / FINISHED)
        if record is None:
            return ""
        before: dict[str, str] = record["key_parts"]
        changed = sorted(name for name in before.keys() | parts.keys() if before.get(name) != parts.get(name))
        return f"changed: {', '.join(changed)}" if changed else "its outputs were changed or deleted"

    def point_latest(self, stage: str, folder: Path) -> None:
        """Makes `<results_dir>/latest/<stage>` lead to this folder."""
        link = self.results_dir / "latest" / stage
        link.parent.mkdir(parents=True, exist_ok=True)
        fresh = link.with_name(f".{stage}.partial")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(os.path.relpath(folder, link.parent), target_is_directory=True)
        fresh.replace(link)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
    except (FileNotFoundError, ValueError):
        return None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes the file in one step: readers see the old content or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(path)
