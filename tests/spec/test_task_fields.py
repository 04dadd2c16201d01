"""The fields in a task's help are those that the task reads: it is run, and what it asks the spec for is noted."""

import importlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reid.cli import tasks
from reid.deploy import gpu
from reid.errors import ReidError
from reid.spec.facts import STAGES, TASKS
from reid.spec.field_types import Section
from reid.spec.fields import fields_of, fields_of_task
from tests.on_cpu import build_driver
from tests.spec.lab import Lab

NOT_USED = {"validate": {"encryption_key"}, "start_client": {"encryption_key"}}
"""Fields that are read for every task, and which these tasks do not use."""
OF_ANOTHER_BACKBONE = {"model.reduce_feat_dim", "model.semantic_weight", "model.stride_size"}
"""Fields that are compared with a model's file only if its network is a Swin or a ViT."""
LOOSE = [f"export.{limit}" for limit in ("min_cosine=0.0", "max_mAP_drop=1.0", "max_rank1_drop=1.0")]
SLOW = {"export", "gen_trt_engine"}
NOWHERE = ["triton.http_port=1", "triton.patience_s=0.1"]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(tmp_path, folder=tmp_path, patch=monkeypatch)


def read(lab: Lab, task: str, *overrides: str) -> set[str]:
    """The dotted names of the fields that the task asks for, until it is done or refuses."""
    spec, seen = lab.spec(*overrides), set()
    names = {id(section): prefix for section, prefix in _sections(spec, "")}
    plain = Section.__getattribute__

    def noting(section: Section, key: str) -> Any:
        value = plain(section, key)
        if id(section) in names and key in type(section).model_fields and not isinstance(value, Section):
            seen.add(f"{names[id(section)]}{key}")
        return value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Section, "__getattribute__", noting)
        try:
            tasks.run_task(task, spec)
        except ReidError as error:
            assert overrides, error
    return seen - NOT_USED.get(task, set())


def _sections(section: Section, prefix: str) -> Iterator[tuple[Section, str]]:
    yield section, prefix
    for name in type(section).model_fields:
        if isinstance(inner := getattr(section, name), Section):
            yield from _sections(inner, f"{prefix}{name}.")


def covers(listed: Iterable[str], field: str) -> bool:
    """Whether a field is listed; dataset.synthetic is if its own fields are."""
    return any(name == field or name.startswith(f"{field}.") for name in listed)


@pytest.mark.parametrize(
    "task", [pytest.param(task, marks=[pytest.mark.slow] if task in SLOW else []) for task in tasks.TASKS]
)
def test_a_task_reads_what_its_help_lists(task: str, lab: Lab) -> None:
    if task not in ("validate", "train", "start_client"):
        lab.task("train")
    if task in ("gen_trt_engine", "triton"):
        lab.task("export", *LOOSE)
    if task == "gen_trt_engine":
        lab.patch.setattr(gpu, "DRIVER", str(build_driver(lab.root)))
        lab.patch.setitem(sys.modules, "tensorrt", importlib.import_module("tests.on_cpu.tensorrt"))
    seen = read(lab, task, *{"start_client": NOWHERE, "export": LOOSE}.get(task, []))
    if task == "triton":
        seen |= read(lab, task, "triton.backend=tensorrt")
    if task == "export":
        seen |= read(lab, task, "export.overwrite=true", "export.data_type=INT8", "export.quantization.images=4")
    if task == "gen_trt_engine":
        seen |= read(lab, task, "gen_trt_engine.tensorrt.data_type=INT8")
    assert sorted(field for field in seen if not covers(fields_of_task(task), field)) == [], "read, and not listed"
    sections = {"triton", "re_ranking"} if task not in STAGES else set()  # they are listed whole
    beside = [
        name
        for name in fields_of_task(task)
        if task not in fields_of()[name].stages
        and name.partition(".")[0] not in sections
        and name not in OF_ANOTHER_BACKBONE
    ]
    assert [name for name in beside if not any(covers([name], field) for field in seen)] == [], "listed, and not read"


def test_every_task_lists_fields_that_are_there_and_all_of_its_own_section() -> None:
    assert set(TASKS) == {*tasks.TASKS, "start_server", "adopt"}
    for task in TASKS:
        own = [name for name in fields_of() if name.startswith(f"{task}.")]
        assert [name for name in own if name not in fields_of_task(task)] == []
