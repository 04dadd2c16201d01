"""The page that shows the images on which a deployed model differs most from the model that it was made from."""

from collections.abc import Sequence
from pathlib import Path

from reid.deploy.comparison import Comparison
from reid.reports.blocks import Table
from reid.reports.match_grid import SIZE, Picture
from reid.reports.page import render
from reid.reports.thumbnails import Thumbnails

DIFFERS, PASSES = "This model differs from the one it was made from", "This model and the one it was made from"
BUDGET_BYTES = 1 << 20


def comparison_page(found: Comparison, *, model: str, objections: Sequence[str], kinds: Table | None = None) -> str:
    """One self-contained HTML page: what is wrong, the figures, and the worst images with their cosines.

    `kinds` is a table of what files of several data types cost and lose.
    """
    figures = [
        ("smallest cosine", f"{found.parity.worst_cosine:.6f}"),
        ("mean cosine", f"{found.parity.mean_cosine:.6f}"),
        ("largest difference of a coordinate", f"{found.parity.max_abs:.3g}"),
    ]
    if found.reference and found.candidate:
        figures += [
            ("mAP, the original and this model", f"{found.reference.mAP:.6f}, {found.candidate.mAP:.6f}"),
            ("rank-1, the original and this model", f"{found.reference.rank1:.6f}, {found.candidate.rank1:.6f}"),
        ]
    thumbnails = Thumbnails(BUDGET_BYTES, **SIZE)
    return render(
        "comparison",
        title=DIFFERS if objections else PASSES,
        subtitle=f"{model}: {'; '.join(objections) or 'within all limits'}",
        kinds=kinds,
        figures=figures,
        pictures=[
            Picture("compared", thumbnails.uri(path), f"{cosine:.5f}", f"{path}\ncosine {cosine:.6f}")
            for path, cosine in found.worst()
        ],
        cosines=[(Path(path).name, f"{cosine:.6f}") for path, cosine in found.worst()],
    )
