"""The manifest stage: the list of the images that validate has checked, which every later stage takes.

It is a stage of its own for the sake of Kubeflow's cache. The cache key of a task holds the ids of its input artifacts,
and a task that runs again gives its artifacts new ids; validate, which has to see the data each time, always runs. So
validate hands out values only, and this stage makes the manifest from them: it is cached as long as the fingerprint and
its part of the spec are the same, and with it everything that comes after it. Further test sets are in neither: the
evaluate stage lists them itself, so that another list of them trains nothing again.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from reid.data.file_index import hash_images, read_images
from reid.data.findings import counted
from reid.data.market_folders import require_data
from reid.spec import Experiment
from reid.stages.images_seen import look_at_images, require_unchanged
from reid.stages.outcome import Outcome

if TYPE_CHECKING:
    from reid.tracking.stage_run import StageRun


def manifest(spec: Experiment, *, fingerprint: str, dataset: Path, run: "StageRun") -> Outcome:
    """Writes the manifest of the images whose fingerprint validate has handed out.

    The files are hashed, not decoded, unless `dataset.corrupt_images` asks to leave out those that cannot be. Raises
    DatasetError if they have another fingerprint now, or if a folder is missing.
    """
    require_data(spec.dataset.folders, roots=spec.dataset.roots)
    skips = spec.dataset.corrupt_images == "skip"
    seen = look_at_images(spec, missing={}, read=read_images if skips else hash_images, with_test_sets=False)
    require_unchanged(seen.fingerprint, fingerprint, stage="manifest")
    manifest = seen.sets.manifest(fingerprint)
    manifest.save(dataset)
    images = counted(sum(map(len, (manifest.train, manifest.query, manifest.gallery))), "image")
    return Outcome({}, {}, [f"{images}, fingerprint {fingerprint[:12]}"])
