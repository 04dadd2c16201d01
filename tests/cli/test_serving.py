"""`reid triton` with and without a spec, and what the serving commands say of themselves."""

from pathlib import Path

import pytest

from reid.cli.commands import main
from tests.exporting import exported


def test_a_repository_is_written_without_a_spec_and_nothing_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx, *_ = exported(tmp_path / "m.onnx")
    line = ["triton", "--model", str(onnx), "--output", str(tmp_path / "models"), "triton.backend=python"]
    assert main([*line, "triton.model_name=mine"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "Triton model mine, version 1, backend python: input 3 x 64 x 32, batches of at most 16",
        f"serve it: tritonserver --model-repository={tmp_path}/models",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "models"]


def test_the_options_win_over_the_spec(tmp_path: Path) -> None:
    onnx, *_ = exported(tmp_path / "m.onnx")
    spec = tmp_path / "spec.yaml"
    spec.write_text(f"results_dir: {tmp_path}/results\ntriton: {{model_file: /none, model_repository: /nowhere}}\n")
    assert main(["triton", "-e", str(spec), "--model", str(onnx), "--output", str(tmp_path / "models")]) == 0
    assert (tmp_path / "models" / "re_identification_tao" / "1" / "model.onnx").exists()
    assert (tmp_path / "results" / "triton" / "status.json").exists()


def test_without_a_spec_both_files_are_wanted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["triton", "--model", str(tmp_path / "m.onnx")]) == 2
    assert capsys.readouterr().err == "error: reid triton: want -e SPEC, or --model FILE and --output FOLDER\n"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("triton", ["--model", "--output", "backend = onnxruntime"]),
        ("start_server", ["a tritonserver on the PATH", "http_port = 8000", "server_image = nvcr.io/"]),
        ("start_client", ["sample_persons = 100", "source = null", "k1 = 20"]),
        ("client", ["--test_dir", "--async", "Re_identification", "https://host:port"]),
    ],
)
def test_the_help_names_what_the_command_takes(
    command: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert [word for word in words if word not in shown] == []
