"""The contract of a served model: the server's own, or the one that the client is given."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from reid.contract import Contract
from reid.deploy.contract_files import read_contract
from reid.deploy.triton_answers import config_of
from reid.deploy.triton_contract import GivenContract, contract_of_file, served_model
from reid.errors import ArtifactError, ServerError

CONTRACT = Contract(256, 128, 3, (0.485, 0.456, 0.406), (0.226, 0.226, 0.226), 256)
VALUES = {"mean": CONTRACT.mean, "std": CONTRACT.std}


def config(**parameters: str) -> dict[str, Any]:
    """The configuration of TAO's sample, as Triton gives it in JSON; gRPC writes large numbers as texts."""
    return {
        "max_batch_size": 16,
        "input": [{"name": "input", "data_type": "TYPE_FP32", "dims": ["3", "256", "128"]}],
        "output": [{"name": "fc_pred", "data_type": "TYPE_FP32", "dims": [256]}],
        "parameters": {name.replace("_", "."): {"string_value": value} for name, value in parameters.items()},
    }


def contract_of(found: dict[str, Any], given: GivenContract | None) -> Contract:
    checked = config_of(found, "here: model")
    return served_model(checked, given=given, where="here: model", batch_size=16).contract


def refusal(found: dict[str, Any], given: GivenContract | None) -> str:
    with pytest.raises(ServerError) as caught:
        contract_of(found, given)
    return str(caught.value)


def test_means_and_deviations_are_completed_by_the_servers_sizes() -> None:
    assert contract_of(config(), GivenContract(VALUES, "--mean --std")) == CONTRACT


def test_a_grey_model_needs_no_channel_order() -> None:
    grey = config()
    grey["input"][0]["dims"][0] = 1
    found = contract_of(grey, GivenContract({"mean": (0.5,), "std": (0.25,)}, "--mean --std"))
    assert (found.channels, found.channel_order) == (1, "L")


def test_the_same_contract_may_be_given_and_another_is_refused() -> None:
    own = config(reid_contract=CONTRACT.to_json())
    assert contract_of(own, GivenContract(VALUES, "--mean --std")) == CONTRACT
    assert refusal(own, GivenContract(VALUES | {"std": (0.224, 0.224, 0.224)}, "--mean --std")) == (
        "here: model: --mean --std contradicts the contract that the server has\n"
        "  found: std: (0.226, 0.226, 0.226), not (0.224, 0.224, 0.224)\n"
        "  want:  the server's own, which is used if none is given"
    )


def test_a_contract_that_is_not_of_this_model_is_refused() -> None:
    other = GivenContract(asdict(CONTRACT) | {"height": 384}, "--contract m.pth")
    assert refusal(config(), other) == (
        "here: model: inputs and outputs are input TYPE_FP32 (3, 256, 128), fc_pred TYPE_FP32 (256)\n"
        "  want: input TYPE_FP32 (3, 384, 128), fc_pred TYPE_FP32 (256), as --contract m.pth says"
    )
    assert refusal(config(), GivenContract({"mean": (0.5,), "std": (0.5,)}, "--mean --std")) == (
        "here: model: --mean --std: preprocessing contract: 1 means and 1 stds of 3 channels\n"
        "  want: one of each per channel"
    )
    assert "channel_order 'BGR' of 3 channels" in refusal(
        config(), GivenContract(VALUES | {"channel_order": "BGR"}, "")
    )


def test_a_model_with_other_ports_is_refused() -> None:
    flat = config()
    flat["input"].append(flat["input"][0])
    assert refusal(flat, GivenContract(VALUES, "--mean --std")).endswith(
        "\n  want: one input (channels, height, width) and one output (embedding)"
    )


def test_a_contract_is_read_in_every_file_that_carries_one(tmp_path: Path) -> None:
    (tmp_path / "contract.json").write_text(CONTRACT.to_json())
    (tmp_path / "build.json").write_text(json.dumps({"built": True, "contract": asdict(CONTRACT)}))
    for name in ("contract.json", "build.json"):
        assert read_contract(tmp_path / name) == CONTRACT
        assert contract_of(config(), contract_of_file(tmp_path / name, source=name)) == CONTRACT


def test_a_file_without_a_contract_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.json").write_text("[]")
    texts = {
        "a.txt": "a.txt: not a file with a contract\n  want: one of .engine, .json, .onnx, .plan, .pth, .tlt",
        "b.json": f"{tmp_path}/b.json: no such file",
    }
    for name, text in texts.items():
        with pytest.raises(ArtifactError) as caught:
            read_contract(Path(name))
        assert str(caught.value) == text
    with pytest.raises(
        ArtifactError, match=r"^a.json: damaged, or of another kind\n  found: \[\]\n  want:  an object$"
    ):
        read_contract(Path("a.json"))
