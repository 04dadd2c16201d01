"""The thresholds of a model: from which cosine on two images count as one person, and how often that is right.

They travel with the model: in the checkpoint, in the metadata of the ONNX file, in the build record beside the engine,
in the registry and in Triton's configuration. A program that decides by them reads them there.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from reid.errors import ArtifactError

KEY = "reid.thresholds"
"""Name of the thresholds in an ONNX file's metadata, in Triton's configuration, and among a model version's tags."""
COSINE_DIGITS, RATE_DIGITS = 6, 6
"""Decimals that are kept, so that equal measurements give equal texts."""
OF_A_RATE = re.compile(r"(\S+) % let in")
"""Name of the threshold that accepts at most this share of the pairs of different persons."""


def name_of_rate(rate: float) -> str:
    """The name of the threshold at a rate of false matches: "0.1 % let in" of 0.001."""
    return f"{100 * rate:g} % let in"


@dataclass(frozen=True)
class Threshold:
    """What follows if all pairs with at least this cosine are taken for one person."""

    name: str
    """best F1, equal error, or as `name_of_rate` has it."""
    cosine: float
    """Of the two embeddings; their squared Euclidean distance at length 1 is 2 - 2 cosine."""
    true_match_rate: float
    """Share of the pairs of one person that are accepted."""
    false_match_rate: float
    """Share of the pairs of different persons that are accepted."""
    precision: float
    """Share of the accepted pairs that are of one person."""

    @property
    def rate(self) -> float | None:
        """The rate of false matches that the name states: false_match_rate is at most that; None if it states none."""
        found = OF_A_RATE.fullmatch(self.name)
        return float(found[1]) / 100 if found else None

    def rounded(self) -> "Threshold":
        """The same with as many decimals as are kept."""
        return Threshold(
            self.name,
            round(float(self.cosine), COSINE_DIGITS),
            round(float(self.true_match_rate), RATE_DIGITS),
            round(float(self.false_match_rate), RATE_DIGITS),
            round(float(self.precision), RATE_DIGITS),
        )


@dataclass(frozen=True)
class Thresholds:
    """The thresholds worth knowing, and on which images they were measured."""

    rows: tuple[Threshold, ...]
    """Rounded."""
    measured_on: str
    """The images in words."""
    same_person_pairs: int
    different_person_pairs: int

    @property
    def rates(self) -> list[float]:
        """The rates of false matches that have a threshold, largest first."""
        return sorted((row.rate for row in self.rows if row.rate is not None), reverse=True)

    def at_false_match_rate(self, rate: float) -> Threshold:
        """The threshold that accepts at most this share of the pairs of different persons.

        Raises ArtifactError if there is none of this rate.
        """
        for row in self.rows:
            if row.name == name_of_rate(rate):
                return row
        known = ", ".join(f"{known:g}" for known in self.rates)
        raise ArtifactError(
            f"false match rate {rate:g}: no threshold is known, of {self.different_person_pairs:,} pairs of different "
            f"persons\n  want: {f'one of {known}' if known else 'a measurement on more images: reid evaluate'}"
        )

    def to_json(self) -> str:
        """One line of JSON; equal measurements give equal lines."""
        counts = {"same_person_pairs": self.same_person_pairs, "different_person_pairs": self.different_person_pairs}
        rows = [asdict(row) for row in self.rows]
        return json.dumps({"measured_on": self.measured_on, **counts, "thresholds": rows})

    @classmethod
    def from_json(cls, text: str, *, where: str = "thresholds") -> "Thresholds":
        """The thresholds read back, also from evaluate's thresholds.json, whose rows say more.

        Raises ArtifactError, which names `where`, if the text is something else.
        """
        try:
            values = json.loads(text)
            rows = tuple(_row(entry) for entry in values["thresholds"])
            counts = (int(values[name]) for name in ("same_person_pairs", "different_person_pairs"))
            return cls(rows, str(values["measured_on"]), *counts)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ArtifactError(
                f"{where}: not thresholds ({type(error).__name__}: {error}); found: {text[:80]!r}\n"
                "  want: JSON with measured_on, same_person_pairs, different_person_pairs and thresholds"
            ) from None

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], *, where: str) -> "Thresholds | None":
        """The thresholds among named texts, as an ONNX file or a server's configuration has them; None without."""
        return cls.from_json(metadata[KEY], where=where) if metadata.get(KEY) else None


def _row(entry: dict[str, Any]) -> Threshold:
    row = Threshold(**{column.name: entry[column.name] for column in fields(Threshold)}).rounded()
    if not (-1 <= row.cosine <= 1 and all(0 <= rate <= 1 for rate in (row.true_match_rate, row.false_match_rate))):
        raise ValueError(f"{row} is out of range")
    if not isinstance(row.name, str) or not 0 < (row.rate or 0.5) < 1:
        raise ValueError(f"{row.name!r} is no name of a threshold")
    return row
