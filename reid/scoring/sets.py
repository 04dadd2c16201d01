"""The figures of one model on several test sets, for a table of training sets by test sets."""

from dataclasses import dataclass

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
