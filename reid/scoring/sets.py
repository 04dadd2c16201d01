"""The figures of one model on several test sets, for a table of training sets by test sets."""

from dataclasses import dataclass

from reid.data.market1501 import Manifest, Split
from reid.scoring.ranking import Scored

MAIN = "main"
"""The name of the test set that the headline figures are of, in the table."""


@dataclass(frozen=True)
class SetFigures:
    """The figures on one test set, as fractions, and how large it is."""

    name: str
    trained_on: bool
    """Whether the model was also trained on training images of this data set."""
    queries: int
    gallery: int
    """Gallery images without junk."""
    mAP: float  # noqa: N815 - the field's spelling
    rank1: float
    reranked_mAP: float  # noqa: N815
    reranked_rank1: float

    @classmethod
    def of(cls, name: str, scored: Scored, *, trained_on: bool) -> "SetFigures":
        """The figures of both rankings of a test set."""
        plain, reranked = scored.plain.metrics(), scored.reranked.metrics()
        return cls(
            name,
            trained_on,
            len(scored.query),
            len(scored.gallery),
            mAP=plain["mAP"],
            rank1=plain["rank1"],
            reranked_mAP=reranked["mAP"],
            reranked_rank1=reranked["rank1"],
        )

    def metrics(self) -> dict[str, float]:
        """mAP_<set>, rank1_<set>, reranked_mAP_<set>, reranked_rank1_<set>, queries_<set>, gallery_<set>."""
        names = ("mAP", "rank1", "reranked_mAP", "reranked_rank1", "queries", "gallery")
        return {f"{name}_{self.name}": float(getattr(self, name)) for name in names}


def was_trained_on(manifest: Manifest, name: str, query: Split) -> bool:
    """Whether training images are of a test set's data set.

    They are if a training set has its name, or, for the main set, if there is one training folder, or training images
    lie in its folder or in one beside its query folder, as in Market-1501's layout.
    """
    if any(part.name == name for part in manifest.train_sets):
        return True
    if name != MAIN:
        return False
    if not manifest.train_sets:
        return len(manifest.train) > 0
    paths = (manifest.train.root / manifest.train.images[part.first].file for part in manifest.train_sets if part.count)
    beside = manifest.gallery.root != query.root
    return any(query.root in path.parents or (beside and path.parent.parent == query.root.parent) for path in paths)
