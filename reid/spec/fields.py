"""The fields of the spec by their facts: which stage reads them, which are paths, which decide a training."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, TypeVar, get_args, get_origin

from pydantic.fields import FieldInfo

from reid.spec.facts import (
    FIRST_RUNS,
    STAGES,
    TASKS,
    AlsoReadBy,
    CountsGpus,
    Fact,
    HandedToEveryStage,
    ReadAloneBy,
    ReadBy,
    Reads,
    Replaced,
    SaidByModel,
    Stage,
    Task,
    Writes,
)
from reid.spec.field_types import Section
from reid.spec.sections import Experiment

F = TypeVar("F", bound=Fact)


@dataclass(frozen=True)
class SpecField:
    """One field with the facts that hold for it."""

    name: str
    """Dotted, from the top of the spec."""
    facts: Mapping[type[Fact], Fact]

    def fact(self, kind: type[F]) -> F | None:
        """The field's fact of this kind; None if it has none."""
        found = self.facts.get(kind)
        return found if isinstance(found, kind) else None

    @property
    def own_stages(self) -> frozenset[Stage]:
        """The stages that the field's ReadBy and AlsoReadBy name."""
        read, also = self.fact(ReadBy), self.fact(AlsoReadBy)
        return frozenset((read.stages if read else ()) + (also.stages if also else ()))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of the pipeline that are handed the field, in the pipeline's order."""
        every = HandedToEveryStage in self.facts
        return tuple(stage for stage in STAGES if every or stage in self.own_stages)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks of the command line that read the field."""
        alone = self.fact(ReadAloneBy)
        direct = {*self.stages, *(alone.by if alone else ())}
        direct |= {task for fact in self.facts.values() for task in fact.tasks}
        return tuple(task for task in TASKS if direct.intersection((task, *FIRST_RUNS.get(task, ()))))


@cache
def fields_of(spec: type[Section] = Experiment) -> Mapping[str, SpecField]:
    """Every field of a spec by its dotted name, in the order of the spec; sections are no fields."""
    return MappingProxyType({field.name: field for field in _walk(spec, "", {})})


def _walk(section: type[Section], prefix: str, inherited: Mapping[type[Fact], Fact]) -> Iterator[SpecField]:
    for key, info in section.model_fields.items():
        facts = {**inherited, **{type(fact): fact for fact in facts_on(info)}}
        if inner := section_in(info.annotation):
            yield from _walk(inner, f"{prefix}{key}.", facts)
        else:
            yield SpecField(f"{prefix}{key}", MappingProxyType(facts))


def facts_on(info: FieldInfo) -> Iterator[Fact]:
    """The facts that stand on a field or section itself."""
    yield from _facts_in(info.annotation)
    yield from (fact for fact in info.metadata if isinstance(fact, Fact))


def _facts_in(annotation: Any) -> Iterator[Fact]:
    for part in get_args(annotation):
        if isinstance(part, Fact):
            yield part
        else:
            yield from _facts_in(part)


def section_in(annotation: Any) -> type[Section] | None:
    """The section that a field of this annotation is or may be; None if it is none, or a list of sections."""
    if get_origin(annotation) is list:
        return None
    kinds = (annotation, *get_args(annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)


def section_of_items(annotation: Any) -> type[Section] | None:
    """The section that each item of a list of this annotation is; None if it is no list, or of something else."""
    return section_in(get_args(annotation)[0]) if get_origin(annotation) is list else None


@cache
def fields_with(kind: type[F], spec: type[Section] = Experiment) -> Mapping[str, F]:
    """The dotted names of the fields that have a fact of this kind, in the order of the spec, and that fact."""
    found = {name: fact for name, field in fields_of(spec).items() if (fact := field.fact(kind))}
    return MappingProxyType(found)


@cache
def fields_of_stage(stage: Stage) -> tuple[str, ...]:
    """The fields that a stage of the pipeline is handed, in the order in which it is handed them.

    First come the fields of the stage's own sections, then those of the sections of the stages before it.
    """
    own = [name for name, field in fields_of().items() if stage in field.own_stages]
    own.sort(key=lambda name: (_owner(name) != stage, STAGES.index(_owner(name))))
    return (*own, *(name for name in fields_with(HandedToEveryStage) if name not in own))


def _owner(name: str) -> Stage:
    """The first stage after validate that reads the section that a field lies in."""
    section = Experiment.model_fields[name.partition(".")[0]]
    (read,) = (fact for fact in facts_on(section) if isinstance(fact, ReadBy))
    return next(stage for stage in STAGES[1:] if stage in read.stages)


@cache
def fields_of_task(task: str) -> tuple[str, ...]:
    """The fields that a task of the command line reads, in the order of the spec."""
    return tuple(name for name, field in fields_of().items() if task in field.tasks)


@cache
def fields_said_by_model(task: str) -> tuple[str, ...]:
    """The fields that the model's file says too, if the task opens a trained model; else none."""
    opens = set(SaidByModel.tasks).intersection((task, *FIRST_RUNS.get(task, ())))
    return tuple(fields_with(SaidByModel)) if opens else ()


@cache
def pipeline_paths() -> Mapping[str, Reads | Writes]:
    """The paths of the spec that a stage of the pipeline reads or writes, and which of the two it does."""
    found = {
        name: path
        for name, field in fields_of().items()
        if (path := field.fact(Reads) or field.fact(Writes)) and field.stages and Replaced not in field.facts
    }
    return MappingProxyType(found)


def paths_at(spec: Section, name: str) -> list[str]:
    """The paths that a field of paths holds: one, several if it is a list, or none."""
    value = value_of(spec, name)
    return list(value) if isinstance(value, list) else [value] if value else []


def paths_in_lists(spec: Section) -> Iterator[tuple[str, int, str, Reads | Writes]]:
    """(list, place, key, which of the two) of each path in the items of the spec's lists of sections."""
    for name in fields_of():
        items = value_of(spec, name)
        if not isinstance(items, list) or not all(isinstance(item, Section) for item in items):
            continue
        for place, item in enumerate(items):
            for key, info in type(item).model_fields.items():
                facts = {type(fact): fact for fact in facts_on(info)}
                path = facts.get(Reads) or facts.get(Writes)
                if isinstance(path, Reads | Writes) and getattr(item, key):
                    yield name, place, key, path


@cache
def sections_that_count_gpus() -> tuple[str, ...]:
    """The sections of the spec that count and name the GPUs of their stage."""
    return tuple(name.rpartition(".")[0] for name in fields_with(CountsGpus))


def value_of(spec: Section, name: str) -> Any:
    """The value of a field by its dotted name; None if it lies in a section that is null."""
    value: Any = spec
    for key in name.split("."):
        value = None if value is None else getattr(value, key)
    return value
