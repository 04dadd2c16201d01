"""What a bundle is made from: the facts of a model, and what a program wants."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from reid.contract import Contract
from reid.deploy.bundles.feeding import Case, Feed
from reid.thresholds import Threshold


@dataclass(frozen=True)
class Facts:
    """What the files of a bundle say about its model."""

    contract: Contract
    """Of the network itself."""
    height: int
    """Height of the images that the bundle's file takes."""
    width: int
    model: str
    """The file's name in the bundle."""
    data_type: str
    """The arithmetic inside: FP32, FP16 or INT8."""
    batch_size: int
    """The largest batch of an engine."""
    threshold: Threshold | None
    """From which cosine on two images count as one person; None if the model's file does not say."""


@dataclass(frozen=True)
class Parameter:
    """The program's own setting that says from which similarity on two images may be one person."""

    name: str
    formula: str
    """How it follows from a cosine, in words."""
    from_cosine: Callable[[float], float]
    default: float
    """The program's own value, for a model without thresholds."""

    def value(self, threshold: Threshold | None) -> float:
        """The setting, rounded to four digits."""
        return round(self.from_cosine(threshold.cosine), 4) if threshold else self.default


@dataclass(frozen=True)
class Program:
    """A tracker and what it wants."""

    title: str
    sources: tuple[str, ...]
    """What was read to write this: version and files."""
    model: Callable[[Contract], str]
    """The name of the model's file, by which the program may recognise things."""
    feed: Feed
    """What the program does to a crop, told by the bundle's configuration."""
    cases: Callable[[Contract], tuple[Case, ...]]
    """Other ways of running it, whose cost is measured."""
    parameter: Parameter
    files: Callable[[Facts, Parameter], Mapping[str, str]]
    """Name -> text of the files beside the model, README.md among them."""
