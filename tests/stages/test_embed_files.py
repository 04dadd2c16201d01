"""The embeddings of a few files of any names."""

from pathlib import Path

import numpy as np
import pytest

from reid.data.image_file import read_picture
from reid.deploy.opening import open_model
from reid.errors import DatasetError
from reid.model.checkpoint import save_model
from reid.stages.embed_files import embed_files
from tests.exporting import contract_of, some_network
from tests.small_market import write_image


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network, file = some_network(), tmp_path_factory.mktemp("model") / "model.pth"
    save_model(file, network, contract=contract_of(network.settings), persons=[1, 2, 3, 4, 5])
    return file


def test_each_file_is_embedded_in_its_turn(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["two people.PNG", "b.jpg", "two people.PNG"]
    write_image(tmp_path / names[0], size=(50, 40), mode="L", format="PNG")
    write_image(tmp_path / names[1])
    opened = open_model(model, device="cpu", images=3)
    found = embed_files(opened, [Path(name) for name in names], batch_size=3)
    assert found.paths == [str(tmp_path / name) for name in names]
    assert not (found.vectors[0] == found.vectors[1]).any() and (found.vectors[0] == found.vectors[2]).all()
    pixels = np.array(read_picture(names[1]))[None]
    wanted = open_model(model, device="cpu", images=1).network
    vectors = wanted.start(pixels)() if hasattr(wanted, "start") else wanted(opened.contract.preprocess(pixels))
    np.testing.assert_allclose(found.vectors[1:2], vectors, atol=1e-6)  # another batch size, so another order of sums


def test_what_cannot_be_read_is_named(model: Path, tmp_path: Path) -> None:
    opened = open_model(model, device="cpu", images=1)
    (tmp_path / "notes.jpg").write_text("no picture")
    wrong = {
        "missing.jpg": "no such file\n  want: an image file",
        ".": "a folder\n  want: an image file",
        "notes.jpg": "cannot be read: not an image",
    }
    for name, why in wrong.items():
        with pytest.raises(DatasetError) as caught:
            embed_files(opened, [tmp_path / name], batch_size=4)
        assert str(caught.value) == f"{tmp_path / name}: {why}"
