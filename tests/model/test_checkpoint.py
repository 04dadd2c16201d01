"""Reading checkpoints: ours back to the same network, others' safely, damaged ones with one clear error."""

import argparse
import collections
import dataclasses
import inspect
import os
import pathlib
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from reid.contract import Contract
from reid.errors import ArtifactError, SpecError
from reid.model.checkpoint import load_model, reid_entry, save_model
from reid.model.embedder import build_embedder
from reid.model.entry import SETTINGS
from reid.model.of_pixels import of_pixels
from reid.model.safe_files import Inert, read_file
from reid.model.weights import load_pretrained
from tests.networks import network_settings

CONTRACT = Contract(height=64, width=32, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3, embedding=16)
PERSONS = [2, 3, 5, 7, 11]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "model_epoch_000.pth"
    save_model(path, build_embedder(**network_settings()), contract=CONTRACT, persons=PERSONS)
    return path


def images(count: int = 3) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(0).standard_normal((count, 3, 64, 32), dtype=np.float32)


def change(path: Path, **entries: Any) -> None:
    """Rewrites the checkpoint with other entries."""
    torch.save(torch.load(path, weights_only=True) | entries, path)


def test_a_checkpoint_comes_back_as_the_same_network(tmp_path: Path) -> None:
    network = build_embedder(**network_settings()).eval()
    path = tmp_path / "folder" / "model.pth"
    save_model(path, network, contract=CONTRACT, persons=reversed(PERSONS))  # type: ignore[arg-type]
    loaded = load_model(path)
    assert (loaded.contract, loaded.settings, loaded.persons) == (CONTRACT, network_settings(), tuple(PERSONS))
    assert not loaded.network.training
    found = loaded.embed(images())
    assert (found.shape, found.dtype) == ((3, 16), np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images())).numpy()
    # channels last sums in another order
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert [file.name for file in path.parent.iterdir()] == ["model.pth"]


def test_what_a_trainer_and_a_compiled_network_add_is_no_hindrance(checkpoint: Path) -> None:
    expected = load_model(checkpoint).embed(images())
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    state = {name.replace("model.", "model._orig_mod.", 1): tensor for name, tensor in state.items()}
    change(checkpoint, state_dict=state | {"center_loss.centers": torch.zeros(5, 16)}, epoch=3, optimizer_states=[])
    np.testing.assert_array_equal(load_model(checkpoint).embed(images()), expected)


def test_decoded_images_are_embedded_as_the_contract_prepares_them(checkpoint: Path) -> None:
    loaded = load_model(checkpoint)
    pixels = np.random.default_rng(0).integers(0, 256, (3, CONTRACT.height, CONTRACT.width, 3), np.uint8)
    found = loaded.of_pixels().start(pixels)()
    np.testing.assert_array_equal(found, loaded.embed(CONTRACT.preprocess(pixels)))
    with pytest.raises(ArtifactError, match="images of shape"):
        loaded.of_pixels().start(pixels[:, :-1])


def test_a_batch_that_does_not_fit_into_the_gpu_names_the_field_to_change() -> None:
    def no_room(_images: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB. GPU 0 has 8 GiB. And so on.")

    network = of_pixels(no_room, contract=CONTRACT, device=torch.device("cpu"), channels_last=True)
    with pytest.raises(SpecError) as caught:
        network.start(np.zeros((3, CONTRACT.height, CONTRACT.width, 3), np.uint8))
    assert str(caught.value) == (
        "dataset.val_batch_size: the memory of cpu does not suffice for 3 images at once\n"
        "  found: CUDA out of memory. Tried to allocate 9.00 GiB. GPU 0 has 8 GiB\n"
        "  want:  a smaller dataset.val_batch_size"
    )


def test_the_entry_holds_plain_values_only() -> None:
    entry = reid_entry(model=network_settings(), contract=CONTRACT, persons=np.array([5, 2]))  # type: ignore[arg-type]
    assert entry == {"format": 1, "model": network_settings(), "contract": CONTRACT.to_json(), "persons": [2, 5]}
    assert [type(person) for person in entry["persons"]] == [int, int]


def test_images_of_another_size_are_an_error(checkpoint: Path) -> None:
    with pytest.raises(ArtifactError) as error:
        load_model(checkpoint).embed(np.zeros((1, 3, 32, 64), np.float32))
    assert str(error.value) == "images of shape (3, 32, 64)\n  want: (3, 64, 32) (channels, height, width)"


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as error:
        load_model(tmp_path / "none.pth")
    assert str(error.value) == f"{tmp_path}/none.pth: no such file\n  want: a checkpoint (.pth, .tlt, .safetensors)"


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_checkpoint_cut_short_is_an_error(checkpoint: Path, share: float) -> None:
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ArtifactError) as error:
        load_model(checkpoint)
    assert str(error.value).startswith(f"{checkpoint}: damaged or cut short (")
    assert str(error.value).endswith("\n  want: a whole checkpoint")


@pytest.mark.parametrize("seed", range(20))
def test_a_checkpoint_with_garbage_in_it_is_an_artifact_error_or_none(checkpoint: Path, seed: int) -> None:
    """Wherever the bytes go wrong, a reader sees ArtifactError or, where they don't matter, a network."""
    rng = np.random.default_rng(seed)
    content = bytearray(checkpoint.read_bytes())
    start = int(rng.integers(0, 3000))
    content[start : start + 40] = rng.bytes(40)
    checkpoint.write_bytes(content)
    try:
        load_model(checkpoint)
    except ArtifactError as error:
        assert str(error).startswith(f"{checkpoint}: ")


def test_a_text_file_is_not_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_text("<html>not found</html>")
    with pytest.raises(ArtifactError) as error:
        load_model(path)
    assert str(error.value) == (
        f"{path}: not a checkpoint: it begins with b'<html>no'\n  want: a file of torch.save or .safetensors"
    )


def test_another_programs_checkpoint_is_an_error_that_names_the_way_in(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"state_dict": {}, "epoch": 3}, path)
    with pytest.raises(ArtifactError) as error:
        load_model(path)
    assert str(error.value) == (
        f"{path}: not a checkpoint of this project: found entries ['epoch', 'state_dict']\n"
        "  want: entries state_dict and reid, as train writes them\n"
        f"  weights of TAO and others: reid adopt {path} -e SPEC makes such a checkpoint of them"
    )


def test_a_later_format_is_an_error(checkpoint: Path) -> None:
    change(checkpoint, reid={"format": 2})
    with pytest.raises(ArtifactError) as error:
        load_model(checkpoint)
    assert str(error.value) == f"{checkpoint}: a checkpoint of format 2\n  want: format 1"


def test_an_entry_without_its_contract_is_an_error(checkpoint: Path) -> None:
    change(checkpoint, reid={"format": 1, "model": network_settings()})
    with pytest.raises(ArtifactError) as error:
        load_model(checkpoint)
    assert str(error.value) == f"{checkpoint}: its entry reid is incomplete\n  want: contract, persons in it too"


def test_a_checkpoint_with_other_settings_than_ours_is_an_error(checkpoint: Path) -> None:
    settings = network_settings() | {"gem_pooling": True}
    settings.pop("neck")
    change(checkpoint, reid=reid_entry(model=settings, contract=CONTRACT, persons=PERSONS))
    with pytest.raises(ArtifactError) as error:
        load_model(checkpoint)
    assert str(error.value) == (
        f"{checkpoint}: written by another version of this project\n"
        "  its model section misses ['neck'], has unknown ['gem_pooling']"
    )


def test_a_checkpoint_from_before_the_stems_pooling_was_a_choice_is_padded(checkpoint: Path) -> None:
    settings = network_settings()
    del settings["stem_pool"]
    change(checkpoint, reid=reid_entry(model=settings, contract=CONTRACT, persons=PERSONS))
    assert load_model(checkpoint).settings == network_settings()


def test_tensors_of_another_shape_than_the_settings_say_are_an_error(checkpoint: Path) -> None:
    entry = reid_entry(model=network_settings(num_classes=7), contract=CONTRACT, persons=PERSONS)
    change(checkpoint, reid=entry)
    with pytest.raises(ArtifactError) as error:
        load_model(checkpoint)
    assert str(error.value) == (
        f"{checkpoint}: its tensors are not those of the network it says it holds: 1 differ\n"
        "  first: classifier.weight (5, 16) instead of (7, 16)"
    )


class Malicious:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch executed",)


def test_code_in_a_checkpoint_is_refused_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pth"
    torch.save({"state_dict": {}, "epoch": Malicious()}, path)
    with pytest.raises(ArtifactError) as error:
        read_file(path)
    assert str(error.value) == (
        f"{path}: needs code to be read, which may do anything: posix.system (1 in all)\n"
        "  want: tensors only, e.g. saved again by torch.save(model.state_dict(), ...)"
    )
    assert not Path("executed").exists()


@pytest.mark.parametrize("how", ["torch's old format", "a bare pickle"])
def test_code_in_an_old_checkpoint_is_refused_and_never_run(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pth"
    if how == "a bare pickle":
        path.write_bytes(pickle.dumps(Malicious(), protocol=2))
    else:
        torch.save({"epoch": Malicious()}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ArtifactError) as error:
        read_file(path)
    assert str(error.value) == (
        f"{path}: needs code to be read, or is damaged "
        "(Trying to load unsupported GLOBAL posix.system whose module posix is blocked.)\n  want: tensors only"
    )
    assert not Path("executed").exists()


def test_the_spec_and_the_trainers_state_beside_the_tensors_are_read_as_inert(tmp_path: Path) -> None:
    path = tmp_path / "model.tlt"
    content = {
        "state_dict": {"model.bottleneck.weight": torch.ones(3)},
        "hyper_parameters": OmegaConf.create({"model": {"backbone": "resnet_50", "stride_size": [16, 16]}}),
        "arguments": argparse.Namespace(gpus=1, folder=pathlib.PurePosixPath("/results")),
        "metrics": collections.defaultdict(list, {"mAP": [np.float64(0.5)]}),
    }
    torch.save(content, path)
    found = read_file(path)
    assert torch.equal(found["state_dict"]["model.bottleneck.weight"], torch.ones(3))
    assert isinstance(found["hyper_parameters"], Inert)
    assert isinstance(found["arguments"], Inert)
    assert list(found["metrics"]) == ["mAP"]


def test_a_contract_of_another_network_is_refused(tmp_path):
    settings = network_settings()
    contract = dataclasses.replace(CONTRACT, height=128)
    save_model(tmp_path / "m.pth", build_embedder(**settings), contract=contract, persons=range(5))
    with pytest.raises(ArtifactError) as caught:
        load_model(tmp_path / "m.pth")
    assert str(caught.value) == (
        f"{tmp_path / 'm.pth'}: its preprocessing contract is of another network: height: 128, not 64\n"
        "  want: the contract that train wrote with these weights"
    )


def test_safetensors_are_read_and_damaged_ones_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"conv1.weight": torch.ones(2, 2)}, path)
    assert torch.equal(read_file(path)["conv1.weight"], torch.ones(2, 2))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ArtifactError) as error:
        read_file(path)
    assert str(error.value).startswith(f"{path}: damaged: not readable as safetensors (")


def test_every_setting_of_a_network_has_its_type() -> None:
    assert set(SETTINGS) == set(inspect.signature(build_embedder).parameters)


ENTRIES = [
    ({"persons": 5}, "persons is wrong", "5", "a valid list"),
    ({"persons": [2, "3"]}, "persons[1] is wrong", "'3'", "a valid integer"),
    ({"model": [1]}, "model is wrong", "[1]", "a valid dictionary"),
    ({"contract": None}, "contract is wrong", "null", "a valid string"),
    ({"thresholds": 5}, "thresholds is wrong", "5", "a valid string"),
    ({"chosen_on": [1]}, "chosen_on is wrong", "[1]", "a valid string"),
    ({"model": network_settings(num_classes="5")}, "model.num_classes is wrong", "'5'", "a valid integer"),
    ({"model": network_settings(pooling=[1])}, "model.pooling is wrong", "[1]", "a valid string"),
    ({"model": network_settings(stride_size=[1, "a"])}, "model.stride_size[1] is wrong", "'a'", "a valid integer"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "field", "found", "want"), ENTRIES, ids=[field for _, field, *_ in ENTRIES])
def test_an_entry_of_other_types_is_an_error(checkpoint: Path, change, field: str, found: str, want: str) -> None:
    change_entry(checkpoint, **change)
    with pytest.raises(ArtifactError) as error:
        load_model(checkpoint)
    assert str(error.value) == f"{checkpoint}: its entry reid.{field}\n  found: {found}\n  want:  {want}"
    with pytest.raises(ArtifactError, match="its entry reid"):  # the way of pretrain_choice=self
        load_pretrained(build_embedder(**network_settings()), checkpoint, choice="self", min_share=0.5)


def change_entry(path: Path, **values: Any) -> None:
    change(path, reid=torch.load(path, weights_only=True)["reid"] | values)


FIRST = "base.conv1.0.weight"
PLAIN = "a dense tensor of float32, float64, float16, bfloat16 or whole numbers"
STEM = torch.ones(16, 3, 3, 3)


@pytest.mark.parametrize(
    ("tensor", "found"),
    [
        (5, "5"),
        (STEM.to_sparse(), "a sparse tensor (torch.sparse_coo)"),
        (STEM.to("meta"), "a tensor without values (on the device meta)"),
        (STEM.to(torch.complex64), "a tensor of torch.complex64"),
    ],
    ids=["a number", "sparse", "meta", "complex"],
)
@pytest.mark.filterwarnings("ignore:.*[Ss]parse")
def test_what_is_no_plain_tensor_is_an_error(checkpoint: Path, tensor: Any, found: str) -> None:
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    change(checkpoint, state_dict=state | {f"model.{FIRST}": tensor})
    with pytest.raises(ArtifactError) as error:
        load_model(checkpoint)
    assert str(error.value) == f"{checkpoint}: {FIRST} is no weight\n  found: {found}\n  want:  {PLAIN}"


@pytest.mark.parametrize(
    ("tensor", "found"),
    [
        (STEM.to(torch.int8), f"{FIRST} (16, 3, 3, 3) of int8 instead of (16, 3, 3, 3) of float32"),
        (torch.zeros(()), f"{FIRST} () instead of (16, 3, 3, 3)"),
    ],
)
def test_a_tensor_of_another_kind_or_shape_is_an_error(checkpoint: Path, tensor: torch.Tensor, found: str) -> None:
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    change(checkpoint, state_dict=state | {f"model.{FIRST}": tensor})
    with pytest.raises(ArtifactError) as error:
        load_model(checkpoint)
    assert str(error.value) == (
        f"{checkpoint}: its tensors are not those of the network it says it holds: 1 differ\n  first: {found}"
    )


def test_a_state_that_is_no_dict_is_an_error(checkpoint: Path) -> None:
    change(checkpoint, state_dict=[1])
    with pytest.raises(ArtifactError) as error:
        load_model(checkpoint)
    assert str(error.value) == f"{checkpoint}: its state_dict is [1]\n  want: names with their tensors"


@pytest.mark.parametrize(("name", "value"), [("num_classes", 2_000_000_000), ("feat_dim", 2_000_000_000)])
def test_a_network_that_fills_the_memory_is_compared_before_it_is_built(
    checkpoint: Path, name: str, value: int
) -> None:
    """2e9 rows of 16 numbers take 128 GB: building them would fail, or kill the machine."""
    change_entry(checkpoint, model=network_settings(**{name: value}))
    with pytest.raises(ArtifactError, match="its tensors are not those of the network it says it holds"):
        load_model(checkpoint)


def test_an_unknown_network_names_the_file(checkpoint: Path) -> None:
    change_entry(checkpoint, model=network_settings(last_stride=3))
    with pytest.raises(ArtifactError) as error:
        load_model(checkpoint)
    assert str(error.value) == (
        f"{checkpoint}: describes no network of this project: model.last_stride: found 3\n  want: 1 or 2"
    )


def test_a_zip_bomb_is_refused_before_it_is_read(checkpoint: Path) -> None:
    with zipfile.ZipFile(checkpoint, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data/99", bytes(100 << 20))
    size, whole = checkpoint.stat().st_size, sum(info.file_size for info in zipfile.ZipFile(checkpoint).infolist())
    with pytest.raises(ArtifactError) as error:
        load_model(checkpoint)
    assert str(error.value) == (
        f"{checkpoint}: not safe to read: it grows from {size:,} to {whole:,} bytes\n"
        "  want: at most 20 times its size; torch.save does not compress"
    )


def test_one_value_that_stands_for_a_million_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"model": {"base.conv1.weight": torch.zeros(1).expand(10**6, 10**6)}}, path)
    with pytest.raises(ArtifactError) as error:
        read_file(path)
    assert str(error.value) == (
        f"{path}: not safe to read: a tensor of shape (1000000, 1000000) claims 4,000,000,000,000 bytes\n"
        "  want: at most 20 times the file's size"
    )


def test_an_entry_that_holds_itself_ends(tmp_path: Path) -> None:
    path, content = tmp_path / "model.pth", dict[str, Any]()
    content["model"] = content
    torch.save(content, path)
    with pytest.raises(ArtifactError) as error:
        load_pretrained(build_embedder(**network_settings()), path, choice="self", min_share=0.5)
    assert str(error.value).startswith(f"{path}: no tensors in it\n  want: a state dict, bare or under ")


def test_lists_that_hold_each_other_are_not_written_out(tmp_path: Path) -> None:
    """str(list) of 40 lists, each with the one before twice, would have 10^12 characters."""
    lists = b"".join(b"]q%c(h%ch%ce" % (n, n - 1, n - 1) for n in range(1, 40))
    called = b"cbuiltins\nstr\n" + b"h\x27\x85R."
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02]q\x00" + lists + called)
        file.writestr("archive/version", "3\n")
        file.writestr("archive/byteorder", "little")
    assert read_file(path) == ""
