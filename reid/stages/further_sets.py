"""The further test sets of the evaluate stage, which it lists itself in a pipeline.

The manifest, which the stages before it read too, does not hold them: another list of them trains nothing
again.
"""

from dataclasses import replace

from reid.data.file_index import hash_images
from reid.data.market1501 import Manifest
from reid.data.market_folders import require_data
from reid.data.sets import evaluation_fingerprint
from reid.spec import Experiment
from reid.stages.images_seen import look_at_further_sets, require_unchanged, trained_on


def add_further_sets(spec: Experiment, manifest: Manifest, *, fingerprint: str) -> Manifest:
    """The manifest with the further test sets of the spec, whose files are hashed and not decoded.

    Raises DatasetError if a root of them is missing, or if all sets together have not this fingerprint.
    """
    require_data({}, roots=spec.dataset.test_roots)
    found = look_at_further_sets(spec, read=hash_images) if spec.dataset.test_sets else ()
    require_unchanged(evaluation_fingerprint(manifest.fingerprint, found), fingerprint, stage="evaluate")
    if not found:
        return manifest
    return replace(manifest, test_sets=tuple(part.listed for part in found), trained_on=trained_on(spec))
