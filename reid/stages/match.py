"""The match task: how alike the persons of two images are, and whether they are one person.

Shapes: N files, D width of the embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reid.deploy.opening import OpenModel
from reid.errors import ArtifactError
from reid.retrieval.distance import l2_normalize
from reid.stages.embed_files import embed_files
from reid.thresholds import Threshold, Thresholds

USUAL_RATE = 1e-3
"""The rate of false matches that is used if none is asked for and it has a threshold."""
BATCH_SIZE = 16
FLOAT32 = "FP32"


@dataclass(frozen=True)
class Pair:
    """Two images, and how alike they are."""

    first: Path
    second: Path
    cosine: float
    """Of the two embeddings, -1 to 1."""
    same_person: bool | None
    """None if no threshold is known."""


@dataclass(frozen=True)
class Verdict:
    """The pairs, and the threshold by which they were judged."""

    pairs: tuple[Pair, ...]
    cosine: float | None
    """Pairs at least this alike are taken for one person; None if no threshold is known."""
    threshold: Threshold | None
    """What is known of that threshold; None if the caller gave it."""
    measured: Thresholds | None
    """All thresholds of the model."""
    data_type: str
    """Of the arithmetic inside the model: FP32, FP16 or INT8. The thresholds were measured in FP32."""


def match(
    model: OpenModel,
    pairs: Sequence[tuple[Path, Path]],
    *,
    false_match_rate: float | None = None,
    cosine: float | None = None,
) -> Verdict:
    """Embeds each image once and judges the pairs.

    The threshold is `cosine` if that is given, else the model's own at `false_match_rate`; see `choose_threshold`.
    Raises ArtifactError if the model knows no threshold of that rate, DatasetError if an image cannot be read.
    """
    chosen = None if cosine is not None else choose_threshold(model.thresholds, false_match_rate)
    limit = chosen.cosine if chosen else cosine
    files = list(dict.fromkeys(file for pair in pairs for file in pair))
    unit = l2_normalize(embed_files(model, files, batch_size=BATCH_SIZE).vectors).astype(np.float64)  # (N, D)
    row_of = {file: row for row, file in enumerate(files)}
    judged = []
    for first, second in pairs:
        found = float(unit[row_of[first]] @ unit[row_of[second]])
        found = min(max(found, -1.0), 1.0)
        judged.append(Pair(first, second, found, None if limit is None else found >= limit))
    return Verdict(tuple(judged), limit, chosen, model.thresholds, _data_type(model))


def choose_threshold(known: Thresholds | None, false_match_rate: float | None) -> Threshold | None:
    """The threshold at this rate of false matches; None if no rate is asked for and the model knows no thresholds.

    Without a rate it is that of USUAL_RATE, else the one of the lowest rate that was measured, else the one at which
    both errors are equally frequent. Raises ArtifactError if no threshold of the rate is known.
    """
    if known is None or not known.rows:
        if false_match_rate is not None:
            raise ArtifactError(
                f"false match rate {false_match_rate:g}: the model knows no threshold\n  want: {WHO_KNOWS_ONE}"
            )
        return None
    if false_match_rate is not None:
        return known.at_false_match_rate(false_match_rate)
    if known.rates:
        return known.at_false_match_rate(USUAL_RATE if USUAL_RATE in known.rates else known.rates[-1])
    return next((row for row in known.rows if row.name == "equal error"), known.rows[0])


def require_threshold(verdict: Verdict) -> None:
    """Raises ArtifactError if the pairs could not be judged."""
    if verdict.cosine is None:
        raise ArtifactError(f"the model knows no threshold\n  want: {HOW_TO_GET_ONE}")


WHO_KNOWS_ONE = "the model of a training, or its ONNX file exported after reid evaluate on images of known persons"
HOW_TO_GET_ONE = f"{WHO_KNOWS_ONE}; or --threshold COSINE"


def _data_type(model: OpenModel) -> str:
    """FP32, FP16, ...: the last word of the runner, which torch does not have."""
    return model.settings.get("runner", FLOAT32).rpartition(", ")[2]
