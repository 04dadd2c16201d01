"""The facts of the spec's fields: each field has those that it must have, and the queries find a new field by them."""

import dataclasses
import inspect
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import Field

from reid.contract import Contract
from reid.model.embedder import build_embedder
from reid.spec import Experiment, load_spec
from reid.spec.dataset_sections import FurtherTestSet, TrainingSet
from reid.spec.explain import explain
from reid.spec.facts import (
    FIRST_RUNS,
    STAGES,
    TASKS,
    CountsGpus,
    DecidesTraining,
    NamesGpus,
    NoPath,
    PartOfNetwork,
    ReadAloneBy,
    ReadBy,
    ReadByRunner,
    Reads,
    Replaced,
    SaidByModel,
    Secret,
    WithoutEffect,
    Writes,
)
from reid.spec.field_types import Count, ReadFile, Section, WrittenFolder
from reid.spec.fields import (
    facts_on,
    fields_of,
    fields_of_task,
    fields_said_by_model,
    fields_with,
    paths_in_lists,
    pipeline_paths,
    section_of_items,
    sections_that_count_gpus,
    value_of,
)
from reid.spec.network import NetworkValues, network_values


class Robot(Section):
    """A section that the real spec does not have."""

    map_file: Annotated[ReadFile | None, DecidesTraining(False)] = None
    speed: Count = 1
    log_dir: Annotated[WrittenFolder | None, ReadBy(), ReadAloneBy("evaluate"), Replaced("the log is one")] = None


class Extended(Experiment):
    """The spec with a new section."""

    robot: Annotated[Robot, ReadBy("train", "register"), DecidesTraining()] = Field(default_factory=Robot)


def kinds_in(annotation: Any) -> set[Any]:
    """The plain types that an annotation is made of, those of a Literal left out."""
    if get_origin(annotation) is Literal:
        return set()
    return {annotation}.union(*map(kinds_in, get_args(annotation)))


def fields_of_text(section: type[Section], prefix: str = "") -> set[str]:
    """Dotted names of the fields that can hold any text or a path, found without the facts."""
    found = set()
    for name, field in section.model_fields.items():
        if section_of_items(field.annotation):  # its items' fields have facts of their own, see below
            continue
        kinds = kinds_in(field.annotation)
        for inner in (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)):
            found |= fields_of_text(inner, f"{prefix}{name}.")
        if kinds & {str, Path}:
            found.add(f"{prefix}{name}")
    return found


def test_a_field_is_read_by_a_stage_a_task_or_the_runner_or_says_why_not() -> None:
    unread = {
        name
        for name, field in fields_of().items()
        if not field.stages and not field.tasks and not field.fact(ReadByRunner) and not field.fact(WithoutEffect)
    }
    assert unread == set()


def test_a_field_of_text_is_a_path_to_read_or_to_write_or_no_path() -> None:
    reads, writes, none = (set(fields_with(kind)) for kind in (Reads, Writes, NoPath))
    assert reads | writes | none == fields_of_text(Experiment)
    assert len(reads) + len(writes) + len(none) == len(reads | writes | none), "of two kinds"


def test_a_text_in_an_item_of_a_list_is_a_path_or_no_path_too() -> None:
    for section in (TrainingSet, FurtherTestSet):
        for name in fields_of_text(section):
            kinds = {type(fact) for fact in facts_on(section.model_fields[name])}
            assert len(kinds & {Reads, Writes, NoPath}) == 1, name
    spec = load_spec(text="dataset: {train_sets: [{name: a, root: /a}], test_sets: [{name: b, root: /b}]}")
    assert [found[:3] for found in paths_in_lists(spec)] == [
        ("dataset.train_sets", 0, "root"),
        ("dataset.test_sets", 0, "root"),
    ]


def test_the_facts_name_only_stages_and_tasks_that_there_are() -> None:
    for name, field in fields_of().items():
        alone = field.fact(ReadAloneBy)
        assert field.own_stages <= set(STAGES), name
        assert set(alone.by if alone else ()) <= set(TASKS), name
    assert {*FIRST_RUNS, *(task for first in FIRST_RUNS.values() for task in first)} <= set(TASKS)


def test_every_section_is_named_by_the_stage_that_it_belongs_to() -> None:
    for task in STAGES[1:-1]:
        assert [name for name in fields_of() if name.startswith(f"{task}.") and name not in fields_of_task(task)] == []


def test_a_new_field_inherits_the_facts_of_its_section_but_for_those_of_its_own() -> None:
    new = {name: field for name, field in fields_of(Extended).items() if name.startswith("robot.")}
    assert [*fields_of(Extended)] == [*fields_of(), *new]
    assert {name: field.stages for name, field in new.items()} == {
        "robot.map_file": ("train", "register"),
        "robot.speed": ("train", "register"),
        "robot.log_dir": (),
    }
    assert new["robot.log_dir"].tasks == ("evaluate",)
    assert new["robot.speed"].tasks == ("train",)
    deciding = fields_with(DecidesTraining, Extended)
    assert [name for name in new if deciding[name].decides] == ["robot.speed", "robot.log_dir"]
    assert set(fields_with(Reads, Extended)) - set(fields_with(Reads)) == {"robot.map_file"}
    assert set(fields_with(Writes, Extended)) - set(fields_with(Writes)) == {"robot.log_dir"}
    assert fields_with(Replaced, Extended)["robot.log_dir"].instead == "the log is one"


def test_the_network_is_what_build_embedder_takes() -> None:
    keywords = {fact.keyword for fact in fields_with(PartOfNetwork).values()}
    assert keywords == set(inspect.signature(build_embedder).parameters) - {"num_classes"}
    assert set(NetworkValues.__annotations__) == keywords - {"stem_relu"}
    spec = load_spec(text="model: {input_height: 64, neck_feat: before, drop_path: 0.25}")
    found = {fact.keyword: value_of(spec, name) for name, fact in fields_with(PartOfNetwork).items()}
    del found["stem_relu"]
    assert network_values(spec) == found


def test_what_a_model_says_is_in_its_contract() -> None:
    said = {fact.contract for fact in fields_with(SaidByModel).values()} - {None}
    assert said == {field.name for field in dataclasses.fields(Contract)} - {
        *("resize", "channel_order", "normalized"),
    }
    assert fields_said_by_model("export") == fields_said_by_model("start_server") == tuple(fields_with(SaidByModel))
    assert fields_said_by_model("train") == fields_said_by_model("triton") == ()


def test_gpus_are_counted_by_the_stages_that_share_them_and_named_beside() -> None:
    assert sections_that_count_gpus() == ("train", "evaluate", "inference")
    assert {name: fact.parameter for name, fact in fields_with(CountsGpus).items()} == {
        "train.num_gpus": "gpus",
        "evaluate.num_gpus": "embedding_gpus",
        "inference.num_gpus": "embedding_gpus",
    }
    named = {f"{section}.gpu_ids" for section in sections_that_count_gpus()}
    assert set(fields_with(NamesGpus)) == {*named, "export.gpu_id", "gen_trt_engine.gpu_id", "triton.gpu_id"}


def test_a_training_is_decided_by_the_network_the_batches_and_the_optimizer() -> None:
    deciding = {name for name, fact in fields_with(DecidesTraining).items() if fact.decides}
    assert {"model.backbone", "dataset.batch_size", "train.seed", "train.optim.center_lr"} <= deciding
    assert not {"model.pretrained_model_path", "train.num_epochs", "dataset.num_workers"} & deciding


def test_the_one_secret_is_the_key() -> None:
    assert list(fields_with(Secret)) == ["encryption_key"]


def test_a_path_that_a_pipeline_replaces_is_none_of_its_paths() -> None:
    replaced = set(fields_with(Replaced))
    assert replaced and not replaced & set(pipeline_paths())
    assert not {"results_dir", "triton.model_file"} & set(pipeline_paths())
    assert {"dataset.source.zip", "export.onnx_file", "dataset.store_dir"} <= set(pipeline_paths())


def test_the_facts_of_a_field_are_told_in_words() -> None:
    assert explain("model.input_height", width=120).splitlines()[3:] == [
        "  Stages of the pipeline that read it: validate, train, register.",
        "  Tasks that also read it when they run alone: evaluate, inference, export, adopt, start_server.",
        "  The pipeline's parameter image_height wins over it, unless it is empty.",
        "  It is part of the network that the spec describes to reid adopt.",
        "  A trained model's file states it too; a spec that gives it has to agree.",
        "  A change of it starts a new training.",
    ]
    assert explain("evaluate.checkpoint", width=120).splitlines()[3:] == [
        "  It is the path of a file that is read.",
        "  It has no effect in a pipeline: the model comes from the stage train.",
        "  Tasks that read it when they run alone: evaluate.",
    ]
    assert explain("export.gpu_id", width=120).splitlines()[3:] == [
        "  It has no effect: the network is exported and compared on the CPU.",
    ]
    assert "  The pipeline's parameter gpus wins over it.\n" in explain("train.num_gpus", width=120)
    assert "  Every stage of the pipeline reads it.\n" in explain("dataset.store_dir", width=120)
    assert "  The runner of the pipeline reads it.\n" in explain("mlflow.run_name", width=120)
    assert "  It is a secret: it is neither written, nor logged, nor passed on.\n" in explain(
        "encryption_key", width=120
    )
