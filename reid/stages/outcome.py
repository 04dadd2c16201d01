"""The value that a stage returns, in addition to the files that it wrote."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Outcome:
    """The figures of a finished stage.

    metrics: flat, finite floats; mAP and rank-k as fractions of 1. parameters: the stage's declared output parameters.
    lines: sentences for the closing summary, most important first. drawn: output -> what a user interface draws for it.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    parameters: dict[str, str | int | float] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    drawn: dict[str, dict[str, Any]] = field(default_factory=dict)
