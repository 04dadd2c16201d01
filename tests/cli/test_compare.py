import json
import subprocess
import sys

import numpy as np

from reid.cli.commands import main
from reid.scoring.per_query import PER_QUERY
from tests.per_query_files import write_per_query

BEFORE = np.linspace(0.2, 0.7, 40)


def test_the_command_prints_the_verdict_writes_the_page_and_answers_by_its_exit_status(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_per_query(tmp_path / "one" / PER_QUERY, BEFORE)
    write_per_query(tmp_path / "two" / PER_QUERY, BEFORE + 0.03)
    assert main(["compare", "one", "two", "--require-better", "--json", "found.json"]) == 0
    said = capsys.readouterr().out
    assert "B is better: mAP +3.00 (+3.00 to +3.00) points (*)\n" in said
    assert "40 queries of 40 persons: 40 won, 0 lost by B\n" in said
    assert "page: results/compare/one_vs_two.html\n" in said
    assert (tmp_path / "results/compare/one_vs_two.html").read_text().startswith("<!doctype html>")
    assert json.loads((tmp_path / "found.json").read_text())["said"] == "B is better: mAP +3.00 (+3.00 to +3.00)"
    assert main(["compare", "two", "one", "--html", "p.html", "--require-better"]) == 1
    assert main(["compare", "two", "one", "--html", "p.html"]) == 0
    assert "B is worse: mAP -3.00" in capsys.readouterr().out


def test_what_cannot_be_compared_is_exit_status_2(tmp_path, capsys):
    file = write_per_query(tmp_path / "one" / PER_QUERY, BEFORE)
    assert main(["compare", str(file), str(tmp_path / "two")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'two'}: no such folder or file")


def test_it_needs_neither_torch_nor_mlflow_for_folders(tmp_path):
    files = [str(write_per_query(tmp_path / name / PER_QUERY, BEFORE + add)) for name, add in (("a", 0), ("b", 0.1))]
    code = (
        "import sys; from reid.cli.commands import main; "
        f"main(['compare', *{files!r}, '--html', {str(tmp_path / 'p.html')!r}]); "
        "print(sorted({'torch', 'mlflow', 'numba', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\n[]\n")
