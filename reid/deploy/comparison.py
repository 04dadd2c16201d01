"""Compares a deployed model with the model it was made from, on real images: vector by vector, and as a ranking.

Equal vectors would be too much to ask: another runtime adds in another order, and FP16 rounds. What counts is the
ranking, but mAP of a small sample hardly moves when a few embeddings are wrong. So there are two tests. The cosine
between both embeddings of each image must not fall below a limit; that finds a single bad image, and some images also
go through alone, since a batch may hide a fault. And mAP and rank-1 of the sample must not drop by more than a limit.

Shapes: N images compared, D width of the embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reid.contract import Contract
from reid.data.market1501 import Split
from reid.deploy.parity import Parity, parity
from reid.deploy.sample import Sample, evenly
from reid.embeddings import Embeddings, Network, embed
from reid.errors import DatasetError

BATCH_SIZE, ONE_BY_ONE = 16, 16
"""Images in a batch; how many query images also go through the candidate one by one."""


@dataclass(frozen=True)
class Retrieval:
    """Figures of the plain ranking of one set of embeddings, as fractions."""

    mAP: float  # noqa: N815
    rank1: float


@dataclass(frozen=True)
class Limits:
    """How much the candidate may differ from the reference."""

    min_cosine: float
    max_mAP_drop: float  # noqa: N815
    max_rank1_drop: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """How a candidate differs from its reference."""

    parity: Parity
    """The parity of every image in a batch, and of some one by one."""
    paths: Sequence[str]
    """(N,) the images compared, in the order of parity.cosines."""
    reference: Retrieval | None
    """None if no query has a match to rank."""
    candidate: Retrieval | None

    @property
    def drops(self) -> Retrieval:
        """How much lower the candidate's figures are; negative if they are higher."""
        if not self.reference or not self.candidate:
            return Retrieval(0.0, 0.0)
        return Retrieval(self.reference.mAP - self.candidate.mAP, self.reference.rank1 - self.candidate.rank1)

    def worst(self) -> list[tuple[str, float]]:
        """Path and cosine of the images that differ most, worst first."""
        return [(self.paths[row], float(self.parity.cosines[row])) for row in self.parity.worst]

    def objections(self, limits: Limits, *, section: str) -> list[str]:
        """The limits that are broken, and by how much; `section` of the spec holds the limits."""
        found = []
        below, drops = int((self.parity.cosines < limits.min_cosine).sum()), self.drops
        if below:
            found.append(
                f"{below} of {self.parity.images} comparisons below a cosine of {limits.min_cosine} "
                f"({section}.min_cosine)"
            )
        for name, drop, most in (
            ("mAP", drops.mAP, limits.max_mAP_drop),
            ("rank1", drops.rank1, limits.max_rank1_drop),
        ):
            if drop > most:
                found.append(f"{name} lower by {drop:.6f}, more than {most} ({section}.max_{name}_drop)")
        return found


Embedded = tuple[Embeddings, Embeddings]
"""The embeddings of a sample's query images and of its gallery images."""


def embed_sample(network: Network, sample: Sample, *, contract: Contract, what: str) -> Embedded:
    """The sample's embeddings; `what` names the network in progress lines."""
    query, gallery = (
        embed(split, pixels, network, contract=contract, batch_size=BATCH_SIZE, what=f"{what}: {name}")
        for name, split, pixels in (
            ("query", sample.query, sample.query_pixels),
            ("gallery", sample.gallery, sample.gallery_pixels),
        )
    )
    return query, gallery


def compare(reference: Embedded, candidate: Network, sample: Sample, *, contract: Contract, what: str) -> Comparison:
    """Compares the candidate's embeddings, in batches and for some images one by one, with the reference's."""
    found = embed_sample(candidate, sample, contract=contract, what=what)
    single = np.isin(np.arange(len(sample.query)), evenly(range(len(sample.query)), ONE_BY_ONE))
    alone = embed(
        sample.query,
        sample.query_pixels,
        candidate,
        contract=contract,
        batch_size=1,
        what=f"{what}: one by one",
        keep=single,
    )
    rows = [*range(len(sample)), *np.flatnonzero(single).tolist()]
    before, after = Embeddings.joined(*reference), Embeddings.joined(*found)
    return Comparison(
        parity(before.vectors[rows], np.concatenate([after.vectors, alone.vectors])),
        [before.paths[row] for row in rows],
        _retrieval(*reference),
        _retrieval(*found),
    )


def compare_embedded(reference: Embedded, candidate: Embedded) -> Comparison:
    """Compares the embeddings of the same images by two models."""
    before, after = Embeddings.joined(*reference), Embeddings.joined(*candidate)
    return Comparison(
        parity(before.vectors, after.vectors), before.paths, _retrieval(*reference), _retrieval(*candidate)
    )


def compare_vectors(
    reference: Network, candidate: Network, images: Split, pixels: NDArray[np.uint8], *, contract: Contract
) -> Parity:
    """The parity of two models on some images, in batches."""
    vectors = [
        embed(images, pixels, network, contract=contract, batch_size=BATCH_SIZE, what=what).vectors
        for network, what in ((reference, "the reference"), (candidate, "the model compared"))
    ]
    return parity(*vectors)


def _retrieval(query: Embeddings, gallery: Embeddings) -> Retrieval | None:
    if not len(gallery):
        return None
    from reid.retrieval.metrics import euclidean_squared, evaluate, l2_normalize

    who = {
        "query_person": query.person,
        "query_camera": query.camera,
        "gallery_person": gallery.person,
        "gallery_camera": gallery.camera,
    }
    distance = euclidean_squared(l2_normalize(query.vectors), l2_normalize(gallery.vectors))
    try:
        scores = evaluate(distance, **who, max_rank=1)
    except DatasetError:  # no query has a match
        return None
    return Retrieval(float(scores.mAP), float(scores.cmc[0]))
