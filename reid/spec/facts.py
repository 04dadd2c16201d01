"""The kinds of facts that a field of the spec may have. They stand on the field itself, in `Annotated[...]`.

A field inherits the facts of the sections that it lies in; a fact of the same kind on the field itself wins.
`fields.py` finds the fields that have a fact, so that no list of fields is kept anywhere else.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

Stage = Literal["validate", "manifest", "train", "evaluate", "inference", "export", "gen_trt_engine", "register"]
Task = Literal[
    "validate", "train", "evaluate", "inference", "export", "gen_trt_engine",
    "adopt", "triton", "start_server", "start_client",
]  # fmt: skip
STAGES: tuple[Stage, ...] = get_args(Stage)
"""The stages of the pipeline, in its order."""
TASKS: tuple[Task, ...] = get_args(Task)
"""The tasks of the command line. Those that have the name of a stage read what the stage reads."""
FIRST_RUNS: dict[str, tuple[Task, ...]] = {"start_server": ("triton", "export", "gen_trt_engine")}
"""Task -> the tasks that it runs first if their results are missing, so that it reads their fields too."""


class Fact:
    """A fact about a field, in addition to its kind, its default and its meaning."""

    tasks: ClassVar[tuple[Task, ...]] = ()
    """The tasks that read every field of this fact when they run alone."""


class ReadBy(Fact):
    """The stages of the pipeline that read the field, and the tasks of the same names."""

    def __init__(self, *stages: Stage) -> None:
        self.stages = stages


class AlsoReadBy(Fact):
    """The stages that read the field in addition to those of its section."""

    def __init__(self, *stages: Stage) -> None:
        self.stages = stages


class HandedToEveryStage(Fact):
    """Every stage of the pipeline gets the field, after its other fields."""


class ReadAloneBy(Fact):
    """The tasks that read the field only when they run alone: in a pipeline an earlier stage gives them the value."""

    def __init__(self, *by: Task) -> None:
        self.by = by


class ReadByRunner(Fact):
    """The runner of the pipeline reads the field; on a cluster the first stage does."""


@dataclass(frozen=True)
class Replaced(Fact):
    """A pipeline takes something else in the field's place: a spec that gives the field is warned."""

    instead: str
    """A sentence: "the model comes from the stage train"."""


@dataclass(frozen=True)
class Reads(Fact):
    """The field is the path of something that is read."""

    kind: Literal["file", "folder"]


@dataclass(frozen=True)
class Writes(Fact):
    """The field is the path of something that is written."""

    kind: Literal["file", "folder"]
    moved: bool = False
    """Whether it is made under another name beside it, and renamed when it is complete."""


class NoPath(Fact):
    """The field is a text that names nothing on the disk."""


@dataclass(frozen=True)
class DecidesTraining(Fact):
    """Whether the field decides what a training gives: an interrupted training resumes only with the same value."""

    decides: bool = True


@dataclass(frozen=True)
class PartOfNetwork(Fact):
    """The field describes the network."""

    keyword: str
    """The keyword of build_embedder that takes it."""
    tasks: ClassVar[tuple[Task, ...]] = ("adopt",)


@dataclass(frozen=True)
class SaidByModel(Fact):
    """The file of a trained model says the field too: a spec that gives another value is refused."""

    contract: str | None
    """The field of reid.contract.Contract that says it; None: the file says it among the settings of
    its network, under the keyword of its PartOfNetwork."""
    tasks: ClassVar[tuple[Task, ...]] = ("evaluate", "inference", "export")


@dataclass(frozen=True)
class CountsGpus(Fact):
    """The field counts the GPUs of its section."""

    parameter: str
    """The parameter of the pipeline that wins over the field."""


@dataclass(frozen=True)
class InForm(Fact):
    """The field is one of those that are changed most, so that the pipeline has a parameter of its own for it."""

    parameter: str
    """The parameter of the pipeline, which wins over the field unless it is empty."""


class NamesGpus(Fact):
    """The field says which GPUs, from 0. In a pod they are always counted from 0."""


class Secret(Fact):
    """The field is neither written, nor logged, nor passed on."""


@dataclass(frozen=True)
class WithoutEffect(Fact):
    """The field is accepted and does nothing: a spec that gives another value than the default is warned."""

    why: str
