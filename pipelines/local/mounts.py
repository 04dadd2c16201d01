"""What a task in a container sees of this machine: the data read-only, results and caches to write, each under the
path that it has outside, so that a path in a spec, a manifest or an MLflow run means the same in both.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from reid.errors import PipelineError
from reid.spec import Experiment
from reid.spec.facts import Reads, Writes
from reid.spec.fields import fields_of, fields_with, paths_at, paths_in_lists, pipeline_paths, value_of


def mounts(spec: Experiment, *, stage: str, tracking_uri: str, caches: Iterable[Path]) -> dict[Path, bool]:
    """Path -> whether the stage may write there.

    Folders to write are made here, for Docker would make them root's. Raises PipelineError if one cannot be made.
    """
    made = _folders_made_in(spec, stage)
    found = {path: False for path in _read(spec, stage) if path.exists() and not made & {path, *path.parents}}
    written = [*_written(spec), *(folder.parent for folder in made)]
    for folder in [*written, *_database(tracking_uri), *caches]:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PipelineError(f"{stage} writes to {folder}, which cannot be made: {error.strerror}") from None
        found[folder] = True
    return found


def cache_folders(spec: Experiment, root: Path) -> dict[str, Path]:
    """Environment variable -> folder of what is made or downloaded once and used by every later container."""
    folders = {"NUMBA_CACHE_DIR": Path(os.environ.get("NUMBA_CACHE_DIR") or root / ".cache" / "numba")}
    if spec.train.compile != "off":
        named = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
        folders["TORCHINDUCTOR_CACHE_DIR"] = Path(named or root / ".cache" / "compiled")
    if spec.model.pretrain_choice == "imagenet" and not spec.model.pretrained_model_path:
        folders["HF_HOME"] = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    return {variable: _absolute(str(folder)) for variable, folder in folders.items()}


def _folders_made_in(spec: Experiment, stage: str) -> set[Path]:
    """The data set that this stage draws or fetches: made under another name beside it, renamed when it is complete."""
    moved = [name for name, fact in fields_with(Writes).items() if fact.moved and stage in fields_of()[name].stages]
    return {_absolute(path) for name in moved if (path := value_of(spec, name))}


def _read(spec: Experiment, stage: str) -> Iterator[Path]:
    """The paths that the pipeline reads; those of a data set's own section only for the stage that makes it."""
    makings = {name.rpartition(".")[0] for name, fact in fields_with(Writes).items() if fact.moved}
    for name, fact in pipeline_paths().items():
        if name.rpartition(".")[0] in makings and stage not in fields_of()[name].stages:
            continue
        if isinstance(fact, Reads):
            yield from (_folder_of(_absolute(path), fact) for path in paths_at(spec, name))
    for name, place, key, fact in paths_in_lists(spec):
        if isinstance(fact, Reads):
            yield _folder_of(_absolute(getattr(value_of(spec, name)[place], key)), fact)


def _folder_of(path: Path, fact: Reads) -> Path:
    """The path; the folder of a file that stands for a folder, for it lists files beside it (dataset.root)."""
    return path.parent if fact.kind == "folder" and path.is_file() else path


def _written(spec: Experiment) -> Iterator[Path]:
    """The folders that the pipeline writes to, except the data sets that it makes."""
    yield from map(_absolute, (spec.results_dir, spec.store_dir))
    for name, fact in pipeline_paths().items():
        if isinstance(fact, Writes) and not fact.moved and (path := value_of(spec, name)):
            yield _absolute(path) if fact.kind == "folder" else _absolute(path).parent


def _database(tracking_uri: str) -> list[Path]:
    """The folder of an MLflow database file, and the folder of its artifacts if a link leads there."""
    if not tracking_uri.startswith("sqlite:///"):
        return []
    folder = _absolute(tracking_uri.removeprefix("sqlite:///")).parent
    return [folder, folder.resolve()]


def _absolute(path: str) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - ".." is taken away, as Docker does
