"""The Dockerfile's own decisions, without Docker: which compiler it installs, and the driver that the image names."""

import re
import subprocess
from pathlib import Path

import pytest

from reid.distributed.driver import OLDEST_DRIVERS

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "components" / "Dockerfile").read_text(encoding="utf-8")


def install(folder: Path, *there: str, image: str, compiler: str = "yes", apt: int = 0) -> tuple[int, list[str], str]:
    """Runs the step in a system with the commands `there`: status, apt-get's arguments, what was said."""
    step = next(text for text in re.findall(r"^RUN (.*?[^\\])$", DOCKERFILE, re.MULTILINE | re.DOTALL) if "apt" in text)
    stubs = {
        "apt-get": f'echo "$@" >> {folder}/asked; exit {apt}',
        "rm": f'echo "rm $@" >> {folder}/asked',
        "python3": f"echo {folder}",
        **{name: "" for name in there if name != "Python.h"},
    }
    (folder / "bin").mkdir()
    for name, text in stubs.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / "bin" / name).chmod(0o755)
    if "Python.h" in there:
        (folder / "Python.h").touch()
    # nothing but the stubs is found: the step removes apt's lists
    environment = {"PATH": str(folder / "bin"), "IMAGE": image, "COMPILER": compiler}
    done = subprocess.run(["/bin/sh", "-c", step], env=environment, capture_output=True, text=True, check=False)
    asked = folder / "asked"
    return done.returncode, asked.read_text().splitlines() if asked.exists() else [], done.stderr


@pytest.mark.parametrize(
    ("there", "installed"),
    [
        ((), "g++ libc6-dev libpython3-dev"),
        (("Python.h",), "g++ libc6-dev"),  # Docker's own image of Python
        (("gcc", "Python.h"), "g++ libc6-dev"),
        (("gcc", "g++"), "libpython3-dev"),
    ],
)
def test_the_image_of_torch_gets_the_compiler_that_its_base_lacks(tmp_path, there, installed):
    status, asked, said = install(tmp_path, *there, image="torch")
    assert (status, said) == (0, "")
    assert asked[:2] == ["update -qq", f"install -qq --yes --no-install-recommends {installed}"]
    assert asked[2].startswith("rm -rf /var/lib/apt/lists/")


@pytest.mark.parametrize(
    ("there", "options"),
    [
        (("gcc", "g++", "Python.h"), {"image": "torch"}),
        ((), {"image": "tensorrt"}),
        ((), {"image": "torch", "compiler": "no"}),
    ],
)
def test_else_nothing_is_installed(tmp_path, there, options):
    assert install(tmp_path, *there, **options) == (0, [], "")


def test_a_base_without_packages_is_told_how_to_build_without_a_compiler(tmp_path):
    status, _, said = install(tmp_path, "Python.h", image="torch", apt=100)
    assert status == 1
    assert said == (
        "cannot install g++ libc6-dev: with BUILD_ARGS='--build-arg COMPILER=no' the image has no compiler\n"
    )


def test_the_image_names_the_driver_that_the_locked_pytorch_needs():
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    cuda = re.search(r"^nvidia-cuda-runtime==(\d+)\.(\d+)", lock, re.MULTILINE)
    assert cuda
    assert f"ARG CUDA={cuda[1]}.{cuda[2]}\n" in DOCKERFILE
    assert f'ARG DRIVER="{OLDEST_DRIVERS[int(cuda[1])]} or newer"\n' in DOCKERFILE
