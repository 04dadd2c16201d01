"""The further test sets, which the evaluate stage of a pipeline lists itself."""

import shutil
from pathlib import Path

import pytest

from reid.cli.task_files import images_of
from reid.data.market1501 import Manifest
from reid.errors import DatasetError
from reid.spec import Experiment, load_spec
from reid.spec.slices import stage_slice
from reid.stages.further_sets import add_further_sets
from reid.stages.manifest import manifest
from reid.stages.validate import validate
from reid.tracking.stage_run import StageRun
from tests.small_market import write_image, write_market


@pytest.fixture
def market(tmp_path: Path) -> Path:
    write_market(tmp_path / "shop")
    return write_market(tmp_path / "market")


def spec_of(market: Path, *test_sets: str) -> Experiment:
    sets = ", ".join(f"{{name: {name}, root: {market.parent}/{name}}}" for name in test_sets)
    return load_spec(
        text=f"results_dir: {market.parent}/r\n"
        f"dataset: {{root: {market}, num_classes: null, batch_size: 8, test_sets: [{sets}]}}"
    )


def checked(spec: Experiment, folder: Path) -> tuple[str, str]:
    """The fingerprints that validate hands to most stages and to evaluate."""
    files = {name: folder / name for name in ("report", "summary", "findings")}
    given = validate(spec, **files, run=StageRun.none()).parameters
    return str(given["fingerprint"]), str(given["evaluation_fingerprint"])


def listed(spec: Experiment, fingerprints: tuple[str, str], folder: Path) -> tuple[bytes, Manifest]:
    """The bytes of the manifest stage's file, and the manifest that evaluate makes of it; each of its own slice."""
    own, file = load_spec(text=stage_slice(spec, "manifest")), folder / "dataset.json"
    manifest(own, fingerprint=fingerprints[0], dataset=file, run=StageRun.none())
    own = load_spec(text=stage_slice(spec, "evaluate"))
    return file.read_bytes(), add_further_sets(own, Manifest.load(file), fingerprint=fingerprints[1])


def test_other_test_sets_change_the_manifest_of_the_evaluation_alone(market: Path, tmp_path: Path) -> None:
    one, two = spec_of(market), spec_of(market, "shop", "market")
    of_one, of_two = (checked(spec, tmp_path / "checked") for spec in (one, two))
    assert of_one[0] == of_one[1] == of_two[0] != of_two[1]
    (file, before), (file_of_two, after) = (
        listed(spec, found, tmp_path) for spec, found in ((one, of_one), (two, of_two))
    )
    assert file == file_of_two
    assert (before.test_sets, after.trained_on) == ((), ("main", "market"))
    alone = Manifest.load(images_of(two, "evaluate"))
    assert alone == after
    assert Manifest.load(images_of(two, "inference")) == before


def test_a_further_set_that_has_changed_since_validate_is_an_error(market: Path, tmp_path: Path) -> None:
    spec = spec_of(market, "shop")
    before = checked(spec, tmp_path / "checked")
    write_image(market.parent / "shop" / "query" / "0005_c1s1_000009_01.jpg", size=(18, 32))
    after = checked(spec, tmp_path / "checked")
    assert after[0] == before[0]
    with pytest.raises(DatasetError) as error:
        listed(spec, before, tmp_path)
    assert str(error.value) == (
        "the data set has changed between the stages validate and evaluate\n"
        f"  found: fingerprint {after[1]}\n"
        f"  want:  fingerprint {before[1]}, which validate has found; start the run again"
    )


def test_a_further_set_that_is_gone_is_named_with_its_field(market: Path, tmp_path: Path) -> None:
    spec = spec_of(market, "shop")
    found = checked(spec, tmp_path / "checked")
    shutil.rmtree(market.parent / "shop")
    with pytest.raises(DatasetError, match=r"dataset\.test_sets, shop: no such folder: "):
        listed(spec, found, tmp_path)
