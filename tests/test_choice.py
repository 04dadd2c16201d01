"""On which images a checkpoint was chosen, as it travels with the model."""

import pytest

from reid.choice import KEY, ON_THE_TEST_IMAGES, Choice, answer, in_a_sentence
from reid.errors import ArtifactError


def test_a_choice_is_read_back_from_an_onnx_files_metadata() -> None:
    choice = Choice(ON_THE_TEST_IMAGES, "f" * 64)
    assert Choice.from_metadata({KEY: choice.to_json()}, where="m.onnx") == choice
    assert Choice.from_metadata({}, where="m.onnx") is None


@pytest.mark.parametrize("text", ["[]", "5", "{", '{"images": 3, "fingerprint": ""}', "[" * 10_000])
def test_metadata_that_is_something_else_names_the_file(text: str) -> None:
    with pytest.raises(ArtifactError) as error:
        Choice.from_json(text, where="m.onnx")
    assert str(error.value) == (
        f"m.onnx: reid.chosen_on does not say on which images the checkpoint was chosen; found: {text[:80]!r}\n"
        "  want: JSON with the texts images and fingerprint"
    )


def test_only_the_same_fingerprint_is_sure_to_be_the_same_images() -> None:
    assert Choice(ON_THE_TEST_IMAGES, "a").made_on("a") == "yes"
    assert Choice(ON_THE_TEST_IMAGES, "a").made_on("b") == Choice(ON_THE_TEST_IMAGES).made_on("b") == "unknown"
    assert Choice("3 held-out training persons, 9 images", "a").made_on("a") == "no"
    assert answer(None, "a") == "unknown"
    assert in_a_sentence(None, "a") == "The model does not say on which images its best checkpoint was chosen."
