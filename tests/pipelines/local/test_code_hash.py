"""The code that a stage can reach, read from its imports."""

from pathlib import Path

import pytest

from pipelines.local.code_hash import closure, stage_code, stage_of

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in {
        "components/__init__.py": "",
        "components/entry.py": "import reid.errors",
        "reid/__init__.py": "",
        "reid/errors.py": "",
        "reid/losses.py": "import torch",
        "reid/data/__init__.py": "",
        "reid/data/store.py": "from . import market\nfrom ..losses import Triplet",
        "reid/data/market.py": "",
        "reid/data/page.css": "body {}",
        "reid/stages/__init__.py": "",
        "reid/stages/train.py": "def train():\n    from reid.data import store",
        "reid/stages/export.py": "",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def names(root: Path, *modules: str) -> list[str]:
    return [path.relative_to(root).as_posix() for path in closure(root, modules)]


def test_lazy_relative_and_package_imports_are_followed(root: Path) -> None:
    assert names(root, "reid.stages.train") == [
        "reid/__init__.py",
        "reid/data/__init__.py",
        "reid/data/market.py",
        "reid/data/store.py",
        "reid/losses.py",
        "reid/stages/__init__.py",
        "reid/stages/train.py",
    ]
    assert names(root, "reid.stages.export") == ["reid/__init__.py", "reid/stages/__init__.py", "reid/stages/export.py"]


@pytest.mark.parametrize("guard", ["TYPE_CHECKING", "typing.TYPE_CHECKING"])
def test_an_import_for_type_checkers_only_is_not_followed_and_its_alternative_is(root: Path, guard: str) -> None:
    text = f"if {guard}:\n    from reid.data import store\nelse:\n    import reid.errors\n"
    (root / "reid" / "stages" / "export.py").write_text(text)
    assert names(root, "reid.stages.export") == [
        "reid/__init__.py",
        "reid/errors.py",
        "reid/stages/__init__.py",
        "reid/stages/export.py",
    ]


@pytest.mark.parametrize(
    ("edited", "train_changes", "export_changes"),
    [
        ("reid/losses.py", True, False),
        ("reid/data/market.py", True, False),
        ("reid/errors.py", True, True),
        ("components/entry.py", True, True),
        ("reid/stages/export.py", False, True),
        ("reid/data/page.css", True, True),
    ],
)
def test_an_edit_changes_the_hash_of_the_stages_that_reach_it(
    root: Path, edited: str, train_changes: bool, export_changes: bool
) -> None:
    before = stage_code(root, "train"), stage_code(root, "export")
    (root / edited).write_text((root / edited).read_text() + "\n# edited")
    after = stage_code(root, "train"), stage_code(root, "export")
    assert [one != two for one, two in zip(before, after)] == [train_changes, export_changes]


def test_the_stage_is_read_from_the_entry_command_only() -> None:
    assert stage_of(["python3", "-m", "components.entry", "train", "--executor-input", "{{$}}"]) == "train"
    assert stage_of(["python3", "-m", "components.other", "train"]) is None
    assert stage_of(["sh", "-c", "true"]) is None


def test_our_own_stages_reach_the_spec_and_not_each_other() -> None:
    reached = {
        path.relative_to(ROOT).as_posix() for path in closure(ROOT, ["components.entry", "reid.stages.validate"])
    }
    assert {"reid/spec/sections.py", "reid/tracking/stage_run.py", "reid/stages/outcome.py"} <= reached
    assert "reid/data/doctor.py" in reached
    assert "reid/stages/register.py" not in reached
    assert "reid/training/losses.py" not in reached
