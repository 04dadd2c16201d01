"""Where results lie and when they may be used again.

`<results_dir>/pipeline/<stage>/<key>/` holds one task's outputs, its log.txt and executor_output.json; a finished
one has task.json too, which makes it a cached result. Without task.json it is an interrupted attempt, which
the next run with the same key resumes. Only the outputs of a task that is never cached are deleted here: damaged
outputs, and a task.json that is no record, are moved to set-aside-<time>/ in their folder.

A key is a hash of what decides a result: component, input values, content of the input artifacts, code. Content
counts, not time: a file that was copied or touched is the same file.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pipelines.ir import Task, Value
from pipelines.local.result_record import FINISHED, Made, NoRecordError, Record, Stamp, read_record, record_of
from pipelines.local.task_files import EXECUTOR_OUTPUT, LOG, Artifact, Outputs
from reid.files.hashes import files_sha256
from reid.files.writing import replace_link, write_text

NO_RESULT = {LOG, "mlflow.json", "mlflow.jsonl", "parameters", EXECUTOR_OUTPUT}
"""What an attempt has beside its outputs; files that begin with a dot belong to an editor or a desktop."""
ASIDE = "set-aside-"


@dataclass(frozen=True)
class Result:
    """A finished task, as task.json remembers it."""

    folder: Path
    outputs: Outputs
    digests: Mapping[str, str]
    """Artifact -> SHA-256 of its content."""
    seconds: float


@dataclass(frozen=True)
class Prepared:
    """A folder that is ready for an attempt."""

    resumes: bool
    """Whether the attempt resumes an interrupted one, of which something is left."""
    aside: Path | None
    """The folder to which what was in the way was moved."""
    objection: str
    """What was wrong with a task.json that is no record; empty if it was one, or if there was none."""


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
    """Every file of an artifact, sorted; empty if it is missing, one entry named "." if it is a single file."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return [_stamp(path, file.relative_to(path).as_posix()) for file in files]


def _stamp(path: Path, name: str) -> Stamp:
    status = (path / name).stat()
    return name, status.st_size, status.st_mtime_ns


def content_digest(path: Path) -> str:
    """SHA-256 over the names and contents of an artifact's files."""
    return files_sha256(path, [name for name, _, _ in stamps(path)])


def _is_whole(path: Path, made: Made) -> bool:
    """Whether every recorded file is as it was written: size and time are compared and, if they differ, the content.

    A file that no stage wrote is no damage.
    """
    names = [name for name, _, _ in made.files]
    if not all((path / name).is_file() for name in names):
        return False
    return [_stamp(path, name) for name in names] == made.files or files_sha256(path, names) == made.digest


class Store:
    """The results folder of one or many runs."""

    def __init__(self, results_dir: Path) -> None:
        self.results_dir = results_dir.absolute()
        self.root = self.results_dir / "pipeline"

    def folder(self, stage: str, key: str) -> Path:
        """Where the outputs of this stage with this key lie."""
        return self.root / stage / key

    def look_up(self, folder: Path, task: Task) -> Result | None:
        """The task's finished result in this folder; None if there is none, or if a file is missing or differs."""
        try:
            record = record_of(task, folder)
        except NoRecordError:
            return None
        if record is None or not all(_is_whole(folder / made.path, made) for made in record.artifacts.values()):
            return None
        artifacts = {
            name: Artifact(folder / made.path, made.kind, made.metadata) for name, made in record.artifacts.items()
        }
        digests = {name: made.digest for name, made in record.artifacts.items()}
        return Result(folder, Outputs(record.parameters, artifacts), digests, record.seconds)

    def prepare(self, folder: Path, task: Task, *, afresh: bool) -> Prepared:
        """Makes the folder ready for an attempt.

        The damaged outputs of a finished result are moved aside; if it is to be made `afresh`, all are removed.
        A task.json that is no record is moved aside, and nothing that it names is touched.
        """
        objection, in_the_way = "", []
        try:
            record = record_of(task, folder)
        except NoRecordError as error:
            record, objection, in_the_way = None, str(error), [FINISHED]
        if record is not None:
            paths = {made.path: made for made in record.artifacts.values()}
            if afresh:
                for path in paths:
                    _remove(folder / path)
            else:
                in_the_way = [path for path, made in paths.items() if not _is_whole(folder / path, made)]
            (folder / FINISHED).unlink(missing_ok=True)
        aside = _set_aside(folder, in_the_way)
        (folder / EXECUTOR_OUTPUT).unlink(missing_ok=True)
        _remove(folder / "parameters")
        resumes = _holds_an_attempt(folder) and record is None and not afresh
        (folder / "parameters").mkdir(parents=True)
        return Prepared(resumes, aside, objection)

    def finish(self, folder: Path, *, outputs: Outputs, parts: Mapping[str, str], seconds: float) -> Result:
        """Records a finished task: computes the digests of its outputs and writes task.json last."""
        digests = {name: content_digest(artifact.path) for name, artifact in outputs.artifacts.items()}
        artifacts = {
            name: Made(
                path=artifact.path.relative_to(folder).as_posix(),
                schema=artifact.schema,
                metadata=dict(artifact.metadata),
                digest=digests[name],
                files=stamps(artifact.path),
            )
            for name, artifact in outputs.artifacts.items()
        }
        record = Record(seconds=seconds, key_parts=dict(parts), parameters=outputs.parameters, artifacts=artifacts)
        write_json(folder / FINISHED, record.model_dump(by_alias=True))
        return Result(folder, outputs, digests, seconds)

    def why_not_cached(self, stage: str, parts: Mapping[str, str]) -> str:
        """Why the stage's latest finished result won't do: "changed: spec, code"; empty if there is none."""
        try:
            record = read_record(self.results_dir / "latest" / stage)
        except NoRecordError:
            return ""
        if record is None:
            return ""
        before = record.key_parts
        changed = sorted(name for name in before.keys() | parts.keys() if before.get(name) != parts.get(name))
        return f"changed: {', '.join(changed)}" if changed else "its outputs were changed or deleted"

    def interrupted_elsewhere(self, stage: str, folder: Path) -> Path | None:
        """The folder of the stage's last attempt, if that was interrupted and is another one than `folder`."""
        last = (self.results_dir / "latest" / stage).resolve()
        if last == folder.resolve() or os.path.lexists(last / FINISHED) or not _holds_an_attempt(last):
            return None
        return last

    def point_latest(self, stage: str, folder: Path) -> None:
        """Makes `<results_dir>/latest/<stage>` lead to this folder."""
        replace_link(self.results_dir / "latest" / stage, folder)


def _holds_an_attempt(folder: Path) -> bool:
    """Whether an attempt has left something that the next one can resume from."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return any(name not in NO_RESULT and not name.startswith((ASIDE, ".")) and ".damaged" not in name for name in names)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _set_aside(folder: Path, names: Sequence[str]) -> Path | None:
    """Moves those of these files that exist into a new folder beside them; None if none exists."""
    there = [name for name in names if os.path.lexists(folder / name)]
    if not there:
        return None
    aside = folder / f"{ASIDE}{datetime.now():%Y-%m-%d-%H%M%S-%f}"
    aside.mkdir()
    for name in there:
        (folder / name).rename(aside / name)
    return aside


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes the file in one step: readers see the old content or the new."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True) + "\n")
