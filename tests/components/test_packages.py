"""What an image holds: the lists of packages, and the lines of the lock that they choose."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from components.packages import EXTRAS, locked, names_of

ROOT = Path(__file__).resolve().parents[2]
COMPONENTS = ROOT / "components"


def listed(image: str) -> list[str]:
    return (COMPONENTS / f"{image}.packages").read_text().split()


@pytest.mark.skipif(sys.platform != "linux", reason="the lists are those of Linux, where the images run")
@pytest.mark.parametrize("image", EXTRAS)
def test_the_lists_are_those_of_the_environment(image: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert listed(image) == names_of(image, project), (
        "pyproject.toml or the lock changed: python -m components.packages"
    )


@pytest.mark.parametrize("image", EXTRAS)
def test_every_package_is_pinned_with_its_hashes(image: str) -> None:
    chosen = locked(listed(image), (ROOT / "requirements.lock").read_text())
    pins = re.split(r"\n(?=\S)", chosen.rstrip("\n"))
    assert {pin.split("==")[0] for pin in pins} == set(listed(image))
    assert all("--hash=sha256:" in pin for pin in pins)


def test_no_image_holds_kfp_or_what_only_developers_need() -> None:
    for image in EXTRAS:
        assert not {"kfp", "pytest", "mypy", "ruff", "hypothesis", "pip"} & set(listed(image))
    assert {"torch", "timm", "mlflow", "onnxruntime", "kubeflow", "kubernetes"} <= set(listed("torch"))
    assert not {"kubeflow", "kubernetes"} & set(listed("tensorrt"))  # only train starts pods
    assert "tensorrt-rtx-cu13-libs" not in listed("torch")
    assert "tensorrt-rtx-cu13-libs" in listed("tensorrt")
    assert not [name for name in listed("tensorrt") if name.startswith(("torch", "triton"))]


LOCK = """\
numpy==2.4.6 ; python_full_version < '3.12' \\
    --hash=sha256:aa
numpy==2.5.0 ; python_full_version >= '3.12' \\
    --hash=sha256:bb
nvidia-cublas==13.1 ; sys_platform == 'linux' \\
    --hash=sha256:cc
torch==2.14.1 \\
    --hash=sha256:dd
torchvision==0.29.1 \\
    --hash=sha256:ee
triton==3.8.0 \\
    --hash=sha256:ff
"""


def test_every_variant_of_a_package_comes_with_its_hashes() -> None:
    assert locked(["numpy"], LOCK) == LOCK.split("nvidia", maxsplit=1)[0]


@pytest.mark.parametrize(
    ("there", "names", "trouble"),
    [
        ({}, ["numpy", "numpy", "nvidia-cublas", "torch", "torchvision", "triton"], ""),
        ({"torch": "2.14.1+cpu", "torchvision": "0.29.1"}, ["numpy", "numpy"], ""),
        (
            {"torch": "2.13.0", "torchvision": "0.29.1"},
            [],
            "BASE has torch 2.13.0\n  want: 2.14.1, as in requirements.lock\n",
        ),
        ({"torch": "2.14.1"}, [], "BASE has torch and no torchvision; want both, or neither\n"),
    ],
    ids=["no torch", "the locked torch", "another torch", "half of it"],
)
def test_a_base_with_pytorch_keeps_its_own(
    there: dict[str, str], names: list[str], trouble: str, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    for name, version in there.items():
        (site / f"{name}-{version}.dist-info").mkdir(parents=True)
        (site / f"{name}-{version}.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    for name in ("packages.py", "torch.packages"):
        (tmp_path / name).write_bytes((COMPONENTS / name).read_bytes())
    (tmp_path / "requirements.lock").write_text(LOCK)
    done = subprocess.run(  # as in the build: nothing but the standard library, and what BASE has
        [sys.executable, "-S", "packages.py", "torch"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1 if trouble else 0, trouble)
    assert re.findall(r"^([a-z-]+)==", done.stdout, re.MULTILINE) == names
