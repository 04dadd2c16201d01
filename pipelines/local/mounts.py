"""What a task in a container sees of this machine: the data read-only, results and caches to write, each under the
path that it has outside, so that a path in a spec, a manifest or an MLflow run means the same in both.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from reid.errors import PipelineError
from reid.spec import Experiment

MAKES_DATA = "validate"
"""The stage that draws dataset.synthetic or fetches dataset.source."""


def mounts(spec: Experiment, *, stage: str, tracking_uri: str, caches: Iterable[Path]) -> dict[Path, bool]:
    """Path -> whether the stage may write there; folders to write are made here, for Docker would make them root's."""
    made = spec.dataset.synthetic or spec.dataset.source
    root = made.root if made and stage == MAKES_DATA else None
    found = {path: False for path in _read(spec, made=root is not None) if path.exists()}
    for folder in [*_written(spec, made_at=root), *_database(tracking_uri), *caches]:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PipelineError(f"{stage} writes to {folder}, which cannot be made: {error.strerror}") from None
        found[folder] = True
    return found


def cache_folders(spec: Experiment, root: Path) -> dict[str, Path]:
    """Environment variable -> folder of what is made or fetched once and used by every later container."""
    folders = {"NUMBA_CACHE_DIR": Path(os.environ.get("NUMBA_CACHE_DIR") or root / ".cache" / "numba")}
    if spec.model.pretrain_choice == "imagenet" and not spec.model.pretrained_model_path:
        folders["HF_HOME"] = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    return {variable: _absolute(str(folder)) for variable, folder in folders.items()}


def _read(spec: Experiment, *, made: bool) -> list[Path]:
    data, folders = spec.dataset, []
    if not made:
        folders = [data.train_dataset_dir, data.test_dataset_dir, data.query_dataset_dir]
    elif data.source:
        folders = [data.source.zip]
    files = [spec.model.pretrained_model_path, spec.train.resume_training_checkpoint_path]
    return [_absolute(path) for path in [*folders, *files] if path]


def _written(spec: Experiment, *, made_at: str | None) -> list[Path]:
    folders = [spec.results_dir, spec.store_dir]
    if made_at:  # a data set is made beside its place and moved there when it is whole
        folders.append(f"{made_at}/..")
    engine = spec.gen_trt_engine
    copies = [spec.inference.output_file, spec.export.onnx_file, engine.trt_engine, engine.timing_cache]
    plots = [spec.evaluate.output_sampled_matches_plot, spec.evaluate.output_cmc_curve_plot]
    return [*map(_absolute, folders), *(_absolute(file).parent for file in [*copies, *plots] if file)]


def _database(tracking_uri: str) -> list[Path]:
    """The folder of an MLflow database file, and where its artifacts lie if a link leads there."""
    if not tracking_uri.startswith("sqlite:///"):
        return []
    folder = _absolute(tracking_uri.removeprefix("sqlite:///")).parent
    return [folder, folder.resolve()]


def _absolute(path: str) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - ".." is taken away, as Docker does
