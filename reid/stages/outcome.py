"""What a stage hands back besides the files it wrote."""

from dataclasses import dataclass, field


@dataclass
class Outcome:
    """Figures of a finished stage.

    metrics: flat, finite floats; mAP and rank-k as fractions of 1. parameters: the stage's declared output parameters.
    lines: sentences for the closing summary, most important first.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    parameters: dict[str, str | int | float] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
