"""The findings of the checks of a data set, and the figures of its splits, as the reports show them."""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reid.console.plain import in_one_line

Severity = Literal["error", "warning", "note"]

EXAMPLES = 8
"""Number of files or sentences kept with a finding as examples."""


@dataclass(frozen=True)
class Finding:
    """One thing found, however many files show it."""

    severity: Severity
    check: str
    """Short name of the check: "bad name", "exact duplicates"."""
    message: str
    """One sentence: where, how many, what follows."""
    count: int
    examples: tuple[str, ...] = ()
    """The first few culprits: SPLIT/FILE, or a sentence."""
    files: tuple[Path, ...] = ()
    """The first few culprits that can be shown as pictures."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", in_one_line(self.message))
        object.__setattr__(self, "examples", tuple(map(in_one_line, self.examples)))


@dataclass(frozen=True)
class SplitSummary:
    """Figures of one split; persons are those above 0."""

    name: str
    root: Path
    images: int
    persons: int
    cameras: int
    junk: int
    distractors: int
    images_per_person: tuple[int, ...]
    """Number of images of each person, ascending."""
    images_per_camera: dict[int, int]
    sizes: dict[tuple[int, int], int]
    """(width, height) in pixels -> images, commonest first."""
    samples: tuple[Path, ...]
    """A few readable images, of persons spread over the split."""
    set_name: str = ""
    """The name of the set that the split belongs to; "" if it has none."""
    cameras_per_person: tuple[int, ...] = ()
    """Number of cameras that see each person, ascending; () if cameras are unknown."""

    @property
    def title(self) -> str:
        """The name of the set, if it has one, and of the split."""
        return f"{self.set_name} {self.name}".lstrip()

    @property
    def median_images(self) -> float:
        """Median of images per person, 0 if there is no person."""
        return float(statistics.median(self.images_per_person)) if self.images_per_person else 0.0


@dataclass(frozen=True)
class Examination:
    """The result of examining a data set, which the reports show."""

    fingerprint: str
    splits: tuple[SplitSummary, ...]
    findings: tuple[Finding, ...]
    """Errors first."""

    def count(self, severity: Severity) -> int:
        """Findings of one severity."""
        return len(self.of(severity))

    def of(self, severity: Severity) -> list[Finding]:
        """The findings of one severity."""
        return [finding for finding in self.findings if finding.severity == severity]

    @property
    def verdict(self) -> str:
        """One sentence: may a run use the data set?"""
        errors, warnings = counted(self.count("error"), "error"), counted(self.count("warning"), "warning")
        if self.count("error"):
            return f"Not usable yet: {errors}, {warnings}."
        return f"Usable, with {warnings}." if self.count("warning") else "Usable, nothing to object to."


def counted(count: int, noun: str) -> str:
    """A number and its noun: 1 image, 2 images."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
