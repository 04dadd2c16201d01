"""Every field of the spec has an effect that is shown here, or is warned about where it has none."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from reid.spec.fields import fields_of
from tests.spec.effects_data import DATASET
from tests.spec.effects_deploy import DEPLOY
from tests.spec.effects_mlflow import MLFLOW
from tests.spec.effects_model import MODEL
from tests.spec.effects_optim import OPTIM
from tests.spec.effects_serving import SERVING
from tests.spec.effects_tasks import TASKS
from tests.spec.effects_training import TRAIN
from tests.spec.lab import Lab

EFFECTS: dict[str, Callable[[Lab], None]] = MODEL | DATASET | TRAIN | OPTIM | TASKS | DEPLOY | SERVING | MLFLOW
SLOW = {
    *MLFLOW,
    *(f"{task}.cpu_processes" for task in ("train", "evaluate", "inference")),
    *(name for name in DEPLOY if name.startswith("export.quantization.")),
    *(f"export.max_{figure}_drop" for figure in ("mAP", "rank1")),
}


@pytest.fixture(scope="session")
def shared_lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture
def lab(shared_lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Lab:
    return dataclasses.replace(shared_lab, folder=tmp_path, patch=monkeypatch, log=caplog)


def test_every_field_has_its_effect_shown_and_every_effect_its_field() -> None:
    fields = set(fields_of())
    assert sorted(fields - set(EFFECTS)) == [], "fields without an effect in EFFECTS"
    assert sorted(set(EFFECTS) - fields) == [], "effects of no field"


@pytest.mark.parametrize(
    "field", [pytest.param(field, marks=[pytest.mark.slow] if field in SLOW else []) for field in EFFECTS]
)
def test_the_field_does_what_it_says(field: str, lab: Lab) -> None:
    EFFECTS[field](lab)
