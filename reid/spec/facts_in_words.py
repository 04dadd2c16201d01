"""The facts of a field in words, for `reid spec --explain FIELD`."""

from collections.abc import Iterator

from reid.spec.facts import (
    STAGES,
    CountsGpus,
    DecidesTraining,
    InForm,
    PartOfNetwork,
    ReadByRunner,
    Reads,
    Replaced,
    SaidByModel,
    Secret,
    WithoutEffect,
    Writes,
)
from reid.spec.fields import SpecField


def facts_in_words(field: SpecField) -> Iterator[str]:
    """The facts of a field, one sentence each."""
    if without := field.fact(WithoutEffect):
        yield f"It has no effect: {without.why}."
    if read := field.fact(Reads):
        yield f"It is the path of a {read.kind} that is read."
    if written := field.fact(Writes):
        yield f"It is the path of a {written.kind} that is written."
    if replaced := field.fact(Replaced):
        yield f"It has no effect in a pipeline: {replaced.instead}."
    if not without:
        yield from _readers(field)
    if counted := field.fact(CountsGpus):
        yield f"The pipeline's parameter {counted.parameter} wins over it."
    if in_form := field.fact(InForm):
        yield f"The pipeline's parameter {in_form.parameter} wins over it, unless it is empty."
    if field.fact(PartOfNetwork):
        yield "It is part of the network that the spec describes to reid adopt."
    if field.fact(SaidByModel):
        yield "A trained model's file states it too; a spec that gives it has to agree."
    decides = field.fact(DecidesTraining)
    if decides and decides.decides:
        yield "A change of it starts a new training."
    if field.fact(Secret):
        yield "It is a secret: it is neither written, nor logged, nor passed on."


def _readers(field: SpecField) -> Iterator[str]:
    stages = () if field.fact(Replaced) else field.stages
    alone = [task for task in field.tasks if task not in stages]
    if stages == STAGES:
        yield "Every stage of the pipeline reads it."
    elif stages:
        yield f"Stages of the pipeline that read it: {', '.join(stages)}."
    elif field.fact(ReadByRunner):
        yield "The runner of the pipeline reads it."
    if alone:
        yield f"Tasks that {'also ' if stages else ''}read it when they run alone: {', '.join(alone)}."
