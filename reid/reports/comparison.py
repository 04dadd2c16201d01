"""The page that shows the images on which a deployed model differs most from the one it was made from."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from reid.deploy.comparison import Comparison
from reid.reports.html import Thumbnails, card, page, section, settings

PAGE_BYTES = 1 << 20


def comparison_page(found: Comparison, *, model: str, objections: Sequence[str]) -> str:
    """One self-contained HTML page: what is wrong, the figures, and the worst images with their cosines."""
    figures = [
        ("least cosine", f"{found.parity.worst_cosine:.6f}"),
        ("mean cosine", f"{found.parity.mean_cosine:.6f}"),
        ("largest difference of a coordinate", f"{found.parity.max_abs:.3g}"),
    ]
    if found.reference and found.candidate:
        figures += [
            ("mAP, the reference's and its own", f"{found.reference.mAP:.6f}, {found.candidate.mAP:.6f}"),
            ("rank-1, the reference's and its own", f"{found.reference.rank1:.6f}, {found.candidate.rank1:.6f}"),
        ]
    thumbnails = Thumbnails(PAGE_BYTES)
    cells = "".join(
        f'<figure class="wrong" title="{escape(path)}"><img alt="image" src="{thumbnails.uri(path)}">'
        f"<figcaption>{cosine:.5f}</figcaption></figure>"
        for path, cosine in found.worst()
    )
    names = [(Path(path).name, f"{cosine:.6f}") for path, cosine in found.worst()]
    return page(
        "This model is not the one it was made from",
        subtitle=f"{model}: {'; '.join(objections)}",
        blocks=[
            section("Figures", card(settings(figures))),
            section(
                "The worst images",
                card(f'<div class="row">{cells}</div>', settings(names)),
                note="Under an image: the cosine between both models' embeddings of it.",
            ),
        ],
    )
