"""The figures of one model on several test sets, for a table of training sets by test sets."""

from dataclasses import dataclass

from reid.scoring.confidence import Interval
from reid.scoring.ranking import Scored


@dataclass(frozen=True)
class SetFigures:
    """The figures on one test set, as fractions, and how large it is."""

    name: str
    trained_on: bool
    """Whether the model was also trained on training images of this data set."""
    queries: int
    gallery: int
    """Gallery images without junk."""
    mAP: Interval  # noqa: N815 - the field's spelling
    rank1: Interval
    reranked_mAP: Interval  # noqa: N815
    reranked_rank1: Interval

    @classmethod
    def of(cls, name: str, scored: Scored, *, trained_on: bool) -> "SetFigures":
        """The figures of both rankings of a test set."""
        return cls(
            name,
            trained_on,
            len(scored.query),
            len(scored.gallery),
            mAP=scored.plain.mAP,
            rank1=scored.plain.rank1,
            reranked_mAP=scored.reranked.mAP,
            reranked_rank1=scored.reranked.rank1,
        )

    def metrics(self) -> dict[str, float]:
        """mAP_<set>, rank1_<set>, reranked_mAP_<set>, reranked_rank1_<set>, queries_<set>, gallery_<set>.

        Behind each figure stand the ends of its interval, mAP_low_<set> and mAP_high_<set> for example.
        """
        found: dict[str, float] = {}
        for name in ("mAP", "rank1", "reranked_mAP", "reranked_rank1"):
            interval: Interval = getattr(self, name)
            found |= {f"{name}_{self.name}": interval.value, **interval.metrics(name, f"_{self.name}")}
        sizes = {"queries": self.queries, "gallery": self.gallery}
        return found | {f"{name}_{self.name}": float(size) for name, size in sizes.items()}
