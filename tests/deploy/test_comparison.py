import numpy as np
import pytest

from reid.data.market1501 import PersonImage, Split
from reid.deploy.comparison import Comparison, Limits, Retrieval, compare, embed_sample
from reid.deploy.parity import parity
from reid.deploy.sample import Sample
from reid.reports.comparison import comparison_page
from tests.exporting import contract_of
from tests.networks import network_settings
from tests.small_market import write_image

CONTRACT = contract_of(network_settings(height=2, width=1, feat_dim=3))


def a_sample(tmp_path, *, gallery: int) -> Sample:
    """A query of each of persons 1 and 2 and `gallery` images of them under another camera, told apart by colour."""
    people = [1 + row % 2 for row in range(gallery)]
    pixels = {1: [200, 10, 10], 2: [10, 10, 200]}
    splits = {
        name: Split(tmp_path, tuple(PersonImage(f"{name}{row}.jpg", who, camera) for row, who in enumerate(persons)))
        for name, persons, camera in (("query", [1, 2], 1), ("gallery", people, 2))
    }
    values = [
        np.array([[[pixels[image.person]]] * 2 for image in split.images], np.uint8).reshape(-1, 2, 1, 3)
        for split in splits.values()
    ]
    return Sample(splits["query"], splits["gallery"], *values)


def colour(images: np.ndarray) -> np.ndarray:
    """The network of these tests: an image's mean colour."""
    return images.mean(axis=(2, 3))


def against_colour(network, sample: Sample) -> Comparison:
    reference = embed_sample(colour, sample, contract=CONTRACT, what="colour")
    return compare(reference, network, sample, contract=CONTRACT, what="the other")


def test_a_model_against_itself_loses_nothing(tmp_path):
    found = against_colour(colour, a_sample(tmp_path, gallery=5))
    assert found.reference == found.candidate == Retrieval(mAP=1.0, rank1=1.0)
    assert found.parity.images == 2 + 5 + 2  # in batches, and the two queries alone besides
    assert found.objections(Limits(0.9999, 0.0, 0.0), section="export") == []


def test_every_limit_that_is_broken_is_told(tmp_path):
    def mixed_up(images: np.ndarray) -> np.ndarray:
        return colour(images)[:, ::-1] if len(images) == 2 else colour(images)  # red is blue in the queries' batch

    found = against_colour(mixed_up, a_sample(tmp_path, gallery=4))
    # four gallery images, a query's own person ranks behind the other's two: (1/3 + 2/4) / 2
    assert found.candidate.mAP == pytest.approx(5 / 12)
    assert found.drops.rank1 == 1
    assert found.objections(Limits(0.9, 0.5, 0.5), section="export") == [
        "2 of 8 comparisons below a cosine of 0.9 (export.min_cosine)",
        "mAP lower by 0.583333, more than 0.5 (export.max_mAP_drop)",
        "rank1 lower by 1.000000, more than 0.5 (export.max_rank1_drop)",
    ]
    assert [path.rpartition("/")[2] for path, _ in found.worst()[:2]] == ["query0.jpg", "query1.jpg"]


def test_without_a_gallery_there_is_nothing_to_rank(tmp_path):
    found = against_colour(colour, a_sample(tmp_path, gallery=0))
    assert (found.reference, found.candidate, found.drops) == (None, None, Retrieval(0.0, 0.0))
    assert found.objections(Limits(0.9, 0.0, 0.0), section="export") == []


def test_the_page_shows_the_worst_images_and_escapes_their_names(tmp_path):
    path = str(write_image(tmp_path / "0001_c1s1_000001_<00>.jpg"))
    found = Comparison(
        parity(np.array([[1.0, 0.0]]), np.array([[1.0, 1.0]])), [path], Retrieval(0.5, 0.6), Retrieval(0.4, 0.6)
    )
    html = comparison_page(found, model="m.onnx", objections=["mAP lower by 0.1"])
    assert "m.onnx: mAP lower by 0.1" in html
    assert "0.707107" in html  # cosine of 45 degrees
    assert "0.500000, 0.400000" in html
    assert "_&lt;00&gt;.jpg" in html
    assert "_<00>.jpg" not in html
