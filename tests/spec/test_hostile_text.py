"""Specs and overrides that nobody honest writes: each is refused by name, and none is a traceback."""

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reid.errors import SpecError
from reid.spec import load_spec

TOO_DEEP = "line 1: nested deeper than 32 levels"
WANT_NAME = "want section.field=value, e.g. train.num_epochs=2"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: !!int x", "line 1: found the tag tag:yaml.org,2002:int, want a plain value"),
        ("a: !!bool maybe", "line 1: found the tag tag:yaml.org,2002:bool, want a plain value"),
        ("a: !!timestamp x", "line 1: found the tag tag:yaml.org,2002:timestamp, want a plain value"),
        ("a: !!set {b}", "line 1: found the tag tag:yaml.org,2002:set, want a plain value"),
        ("seed: 1\na: !x y", "line 2: found the tag !x, want a plain value"),
        ("train: {seed: " + "9" * 5000 + "}", "line 1: found a number of 5000 digits"),
        ("null: 1", "Incompatible key type 'NoneType'"),
        ("a: ${}", "a: no viable alternative at input '${}'"),
        ("5", "line 1: found '5', want sections (key: value)"),
        ("a" * 60, f"line 1: found '{'a' * 40}…', want sections (key: value)"),
        ("{a: " * 500 + "1" + "}" * 500, TOO_DEEP),
        ("[" * 1000 + "]" * 1000, TOO_DEEP),
        ("a: " + "[" * 100_000, TOO_DEEP),
        ("a: \0", "found the character '\\x00', want a plain text"),
        ('results_dir: "a\\0b"', "results_dir: found 'a\\x00b' (str); want: a text without the character NUL"),
        (
            'dataset: {train_sets: [{name: a, root: "a\\0", layout: msmt17}]}',
            "dataset.train_sets.0.root: found 'a\\x00' (str); want: a text without the character NUL",
        ),
        ("train: {optim: {base_lr: 1e999}}", "train.optim.base_lr: found inf (float); want: a finite number"),
        ("encryption_key: 123456", "encryption_key: found a secret (int); want: a text"),
        ("train: {optim: {base_lr: .nan}}", "train.optim.base_lr: found nan (float); want: a finite number"),
    ],
)
def test_a_hostile_text_is_refused(text: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(text=text)
    assert str(caught.value) == f"spec: {said}"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("[x$…=1", f"'[x$…=1': {WANT_NAME}"),
        ("train..x=1", f"'train..x=1': {WANT_NAME}"),
        ("results_dir=\udcff", "'results_dir=\\udcff': found the character '\\udcff', want a plain text"),
        ("train.seed=!!int x", "'train.seed=!!int x': line 1: found the tag tag:yaml.org,2002:int, want a plain value"),
        ("train.seed=" + "[" * 1000, f"'train.seed={'[' * 29}…': {TOO_DEEP}"),
    ],
)
def test_a_hostile_override_is_refused(override: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(text="", overrides=[override])
    assert str(caught.value) == f"command line: {said}"


def test_only_a_file_of_some_pages_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "large.yaml").write_bytes(b"#" * (2**20 + 1))
    (tmp_path / "latin.yaml").write_bytes(b"results_dir: caf\xe9")
    said = {
        "pipe.yaml": "found a device or a pipe; want a YAML file",
        "large.yaml": "found more than 1 MiB; want a YAML file of some pages",
        "latin.yaml": "found bytes that are not UTF-8, at byte 16; want a YAML file",
    }
    for name, what in said.items():
        with pytest.raises(SpecError) as caught:
            load_spec(tmp_path / name)
        assert str(caught.value) == f"{name}: {what}"
    with pytest.raises(SpecError, match=r"^zero: found a device or a pipe"):
        load_spec("/dev/zero")


def test_a_shell_may_hand_over_a_pipe() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"train: {num_epochs: 3}")
    os.close(writing)
    assert load_spec(f"/dev/fd/{reading}").train.num_epochs == 3
    os.close(reading)


@given(st.text(alphabet="ab:{}[]!&*?|>-'\"\\\n $.0123,#%@\t", max_size=40), st.booleans())
def test_any_text_is_a_spec_or_a_refusal(text: str, as_override: bool) -> None:
    with contextlib.suppress(SpecError):
        load_spec(text="" if as_override else text, overrides=[f"train.seed={text}"] if as_override else [])
