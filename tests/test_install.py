"""Installing: what `make setup` leaves, the extras that error texts name, and the one version."""

import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from reid import __version__

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCKED = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))


def test_the_version_stands_in_one_place() -> None:
    files = [file for place in ("reid", "components", "pipelines") for file in (ROOT / place).rglob("*.py")]
    alone = re.compile(rf"(?<![\w.]){re.escape(__version__)}(?![\w.])")
    found = [file for file in [ROOT / "pyproject.toml", *files] if alone.search(file.read_text(encoding="utf-8"))]
    assert found == [ROOT / "reid" / "__init__.py"]


def test_every_extra_that_a_text_names_is_one_and_no_text_names_an_index_where_the_project_is_not() -> None:
    texts = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "reid").rglob("*.py"))
    texts = texts.replace("{PACKAGES.get(str(error.name), error.name)}", "a-driver")
    named = {name.strip("'") for name in re.findall(r"pip install (?:-e )?([^\s,)]+)", texts)}
    extras = {name.strip(".[]") for name in named if name.startswith(".")}
    assert extras == {"export", "mlflow", "search", "tensorrt", "triton"}
    assert extras <= set(PROJECT["optional-dependencies"])
    assert named - {f".[{extra}]" for extra in extras} == {
        "tensorrt",
        "a-driver",
    }  # NVIDIA's own, and that of the user's database


@pytest.mark.parametrize("extra", ["", *PROJECT["optional-dependencies"]])
def test_the_lock_meets_what_the_project_and_each_extra_require(extra: str) -> None:
    for text in PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]:
        wanted = Requirement(text)
        assert wanted.specifier.contains(LOCKED[canonicalize_name(wanted.name)]), text


@pytest.mark.parametrize("lock", ["requirements.lock", "docs/requirements.lock", "tests/tritonserver.lock"])
def test_a_lock_has_a_hash_for_every_package_and_names_no_index(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip()]
    assert lines
    assert [
        line for line in lines if not re.match(r"[\w.-]+(\[[\w,]+\])?==\S+.* --hash=sha256:[0-9a-f]{64}", line)
    ] == []
    assert "://" not in text


@pytest.mark.parametrize("folder", ["", "docs"])
def test_a_lock_has_the_versions_that_its_in_file_pins(folder: str) -> None:
    wanted = (ROOT / folder / "requirements.in").read_text(encoding="utf-8").splitlines()
    pinned = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", (ROOT / folder / "requirements.lock").read_text(), re.MULTILINE))
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


@pytest.mark.slow
def test_make_setup_puts_the_command_on_the_path_of_its_environment_and_nothing_in_the_tree(tmp_path: Path) -> None:
    """With an empty lock: the packages, setuptools too, are those of the environment that runs the tests."""
    checkout, environment = tmp_path / "checkout", tmp_path / "environment"
    shutil.copytree(ROOT / "reid", checkout / "reid", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / ".ci", checkout / ".ci")
    for name in ("Makefile", "pyproject.toml", "README.md", ".gitignore"):
        shutil.copy(ROOT / name, checkout)
    (checkout / "requirements.lock").touch()
    before = sorted(checkout.rglob("*"))
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    (packages,) = environment.glob("lib/python3*/site-packages")
    for path in packages.glob("setuptools*"):  # Python 3.11 brings an older one
        shutil.rmtree(path)
    (packages / "shared.pth").write_text(sysconfig.get_path("purelib"))
    subprocess.run(["make", "setup", f"VENV={environment}", f"PYTHON={sys.executable}"], cwd=checkout, check=True)
    assert [path for path in sorted(checkout.rglob("*")) if "__pycache__" not in path.parts] == before
    # without the PYTHONPATH that the Makefile gives the tests
    alone = {"cwd": tmp_path, "env": {"PATH": ""}, "capture_output": True, "text": True}
    done = subprocess.run([environment / "bin" / "reid", "spec", "--explain", "train.seed"], **alone, check=True)
    assert done.stdout.startswith("train.seed")
    program = "from importlib.metadata import version; import reid; print(version('reid-pipeline'), reid.__file__)"
    done = subprocess.run([environment / "bin" / "python", "-c", program], **alone, check=True)
    assert done.stdout.split() == [__version__, str(checkout / "reid" / "__init__.py")]


@pytest.mark.parametrize(
    ("free_gb", "status", "said"),
    [
        (20, 0, ""),
        (
            8,
            2,
            "error: {folder}: the disk has 8.0 GB free\n  want: 12 GB, for packages and their downloads\n"
            "  VENV=DIR puts the environment elsewhere, TMPDIR=DIR the downloads\n",
        ),
    ],
)
def test_setup_ends_before_the_download_if_the_disk_is_too_small(
    tmp_path: Path, free_gb: int, status: int, said: str
) -> None:
    program = f"""
import runpy, shutil, sys, types
shutil.disk_usage = lambda folder: types.SimpleNamespace(free={free_gb} * 10**9)
sys.argv = ["require_space.py", {str(tmp_path / ".venv")!r}]
runpy.run_path({str(ROOT / ".ci/require_space.py")!r}, run_name="__main__")
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], env={"TMPDIR": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (status, said.format(folder=tmp_path))
