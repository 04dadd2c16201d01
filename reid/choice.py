"""On which images the best checkpoint of a training was chosen, as it travels with the model.

A figure on images on which the checkpoint was chosen is too good: of many checkpoints, the one was taken that these
images happen to like. A checkpoint says it in its entry `reid`, an ONNX file in its metadata, an engine in its record.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from reid.errors import ArtifactError

KEY = "reid.chosen_on"
"""The key of an ONNX file's metadata."""
ON_THE_TEST_IMAGES = "the query and gallery images of the data set, whose figures are therefore optimistic"
Answer = Literal["yes", "no", "unknown"]


@dataclass(frozen=True)
class Choice:
    """The images on which the best checkpoint was chosen."""

    images: str
    """In words."""
    fingerprint: str = ""
    """Fingerprint of the data set of which they are; "" in older files."""

    def made_on(self, fingerprint: str) -> Answer:
        """Whether the query and gallery images of the data set of this fingerprint are those images.

        "unknown" if they are those of a data set that is not exactly this one, and may have images in common with it.
        """
        if self.images != ON_THE_TEST_IMAGES:
            return "no"
        return "yes" if self.fingerprint == fingerprint else "unknown"

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str, *, where: str) -> "Choice":
        """The choice read back. Raises ArtifactError, which names `where`, if the text is something else."""
        try:
            values = json.loads(text)
            images, fingerprint = values["images"], values["fingerprint"]
        except (ValueError, KeyError, TypeError, RecursionError):
            images = fingerprint = None
        if not isinstance(images, str) or not isinstance(fingerprint, str):
            raise ArtifactError(
                f"{where}: {KEY} does not say on which images the checkpoint was chosen; found: {text[:80]!r}\n"
                "  want: JSON with the texts images and fingerprint"
            )
        return cls(images, fingerprint)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], *, where: str) -> "Choice | None":
        """The choice among named texts, as an ONNX file has them; None without."""
        return cls.from_json(metadata[KEY], where=where) if metadata.get(KEY) else None


def in_a_sentence(choice: Choice | None, fingerprint: str) -> str:
    """What the choice means for figures on the query and gallery images of the data set of this fingerprint."""
    if choice is None:
        return "The model does not say on which images its best checkpoint was chosen."
    made = choice.made_on(fingerprint)
    if made == "yes":
        return "The best checkpoint was chosen on these images, so the figures are too good."
    if made == "no":
        return f"The best checkpoint was chosen on other persons than these: {choice.images}."
    return (
        "The best checkpoint was chosen on the query and gallery images of the data set that it was trained on; if "
        "these are among them, the figures are too good."
    )


def answer(choice: Choice | None, fingerprint: str) -> Answer:
    """`Choice.made_on`; "unknown" if the model does not say on which images it was chosen."""
    return choice.made_on(fingerprint) if choice else "unknown"
