"""The commands before they have loaded anything: Ctrl-C in the first instants."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CTRL_C_AT_AN_IMPORT = """
import os, signal, sys
class CtrlC:
    def find_spec(self, name, *_):
        if name == os.environ["CTRL_C_AT"]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, CtrlC())
"""


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("reid.cli.commands", ["reid", "spec", "--blank"]),
        ("reid.console.view", ["reid", "spec", "--blank"]),
        ("pydantic", ["reid", "train", "-e", "pipelines/specs/demo.yaml"]),
        ("pipelines.run", ["pipelines", "--spec", "demo"]),
        ("reid.errors", ["pipelines", "--spec", "demo"]),
        ("omegaconf", ["pipelines", "--spec", "demo"]),
    ],
)
def test_ctrl_c_while_a_command_loads_ends_it_without_a_traceback(
    tmp_path: Path, module: str, words: list[str]
) -> None:
    (tmp_path / "sitecustomize.py").write_text(CTRL_C_AT_AN_IMPORT)
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "CTRL_C_AT": module},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
