"""What holds for every page: it is one file, it escapes, it forbids itself what it does not need."""

import base64
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import jinja2
import numpy as np
import pytest
from PIL import Image

from reid.data.findings import Examination, Finding, SplitSummary
from reid.deploy.comparison import Comparison, Retrieval
from reid.deploy.parity import parity
from reid.reports.comparison import comparison_page
from reid.reports.evaluation import evaluation_page
from reid.reports.findings_page import to_html
from reid.reports.page import environment, render
from reid.reports.training import training_page
from tests.reports.test_evaluation import some_evaluation

HOSTILE = "<script>alert(1)<\\script> \"onerror='x' & \udcff.png"
"""A file name with markup, both quotes, and a byte that is not UTF-8 as Python reads it."""
VOID = {"meta", "img", "link", "br", "hr", "input"}


def hostile_image(folder: Path) -> str:
    path = folder / HOSTILE
    Image.new("RGB", (32, 64), (90, 120, 60)).save(path)
    return str(path)


def evaluation(folder: Path) -> str:
    values = some_evaluation(hostile_image(folder))
    fields = {name: getattr(values, name) for name in values.__dataclass_fields__}
    hostile = {"subtitle": HOSTILE, "sampled_note": HOSTILE, "settings": [(HOSTILE, HOSTILE)]}
    return evaluation_page(type(values)(**fields | hostile))


def training(folder: Path) -> str:
    row = {"epoch": -1, "mAP": 0.1, "rank1": 0.2}
    return training_page(
        [row],
        best=row,
        subtitle=HOSTILE,
        ranked_on=HOSTILE,
        weights=[f"{HOSTILE}: {HOSTILE}"],
        settings=[(HOSTILE, HOSTILE)],
    )


def findings(folder: Path) -> str:
    image = Path(hostile_image(folder))
    persons, cameras = (1, 2), {1: 3}
    split = SplitSummary("train", Path(HOSTILE), 3, 2, 1, 0, 0, persons, cameras, {(32, 64): 3}, (image,))
    empty = SplitSummary("query", Path(HOSTILE), 0, 0, 0, 0, 0, (), {}, {}, ())
    finding = Finding("error", HOSTILE, HOSTILE, 9, (HOSTILE,), (image,))
    return to_html(Examination(HOSTILE, (split, empty), (finding,)))


def comparison(folder: Path) -> str:
    of = parity(np.array([[1.0, 0.0]]), np.array([[1.0, 1.0]]))
    found = Comparison(of, [hostile_image(folder)], Retrieval(0.5, 0.6), Retrieval(0.4, 0.6))
    return comparison_page(found, model=HOSTILE, objections=[HOSTILE])


every_page = pytest.mark.parametrize("draw", [evaluation, training, findings, comparison])


class Elements(HTMLParser):
    """All elements of a page with their attributes; raises AssertionError if they do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@every_page
def test_a_hostile_file_name_is_text_and_nothing_else(tmp_path: Path, draw: Callable[[Path], str]) -> None:
    page = draw(tmp_path)
    page.encode("utf-8")
    elements = Elements(page).found
    assert [tag for tag, _ in elements].count("script") <= 1
    assert not [name for _, attributes in elements for name in attributes if name.startswith("on")]
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;\\script&gt; &#34;onerror=&#39;x&#39; &amp; \\udcff.png" in page


@every_page
def test_a_page_refers_to_nothing_outside_itself(tmp_path: Path, draw: Callable[[Path], str]) -> None:
    page = draw(tmp_path)
    assert page.startswith("<!doctype html>\n")
    for tag, attributes in Elements(page).found:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form"}
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("data:image/jpeg;base64,", "#"))
    assert not re.findall(r"url\((?!#)|@import", page)


@every_page
def test_a_pages_policy_lets_it_run_its_own_script_and_load_nothing(
    tmp_path: Path, draw: Callable[[Path], str]
) -> None:
    page = draw(tmp_path)
    (policy,) = (a["content"] for tag, a in Elements(page).found if a.get("http-equiv") == "Content-Security-Policy")
    rules = "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; style-src 'unsafe-inline'"
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert policy == rules + "".join(f"; script-src 'sha256-{one}'" for one in hashes)


@every_page
def test_pages_share_one_stylesheet_and_the_same_values_give_the_same_bytes(
    tmp_path: Path, draw: Callable[[Path], str]
) -> None:
    page = draw(tmp_path)
    assert page == draw(tmp_path)
    head = page[: page.index("<body>")]
    style = str(environment().globals["style"])
    assert head.count("<style>") == 1 and f"<style>\n{style}</style>" in head
    assert "prefers-color-scheme: dark" in style


def test_a_value_that_a_template_needs_and_nobody_gave_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError, match="'subtitle' is undefined"):
        render("training")


def test_jinja2_is_loaded_when_a_page_is_drawn_and_not_before() -> None:
    code = "import sys, reid.stages.validate; print('jinja2' in sys.modules)"
    root = Path(__file__).parents[2]
    environ = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
