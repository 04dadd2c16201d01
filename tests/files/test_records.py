"""A record that was cut, retyped or replaced is an error that says what is wrong; it is moved out of the way."""

import logging
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydantic import BaseModel

from reid.files.records import (
    LARGEST_LINE,
    DamagedRecordError,
    read_json_lines,
    read_json_record,
    read_json_text,
    read_or_set_aside,
    set_aside,
)


@dataclass
class Plain:
    name: str
    count: int = 0
    share: float = 0.0
    pair: tuple[str, int] = ("", 0)
    sent: dict[str, int] = field(default_factory=dict)


class Model(BaseModel):
    name: str
    count: int = 0
    values: dict[str, object] = {}


FAULTS = {
    "": ("", "nothing", "JSON"),
    '{"a":': ("", "no JSON: Expecting value at line 1, column 6", "JSON"),
    "[" * 500_000: ("", "brackets nested too deeply", "JSON"),
    '{"a":' * 500_000: ("", "brackets nested too deeply", "JSON"),
    '{"name": NaN}': ("", "the number NaN", "JSON"),
    '{"name": -Infinity}': ("", "the number -Infinity", "JSON"),
    '{"name": "a", "count": 1e999}': ("", "the number 1e999", "JSON"),
    '{"name": "a", "count": ' + "9" * 5000 + "}": ("", "a number of 5000 digits", "JSON"),
    '{"name": "a", "count": 1' + "0" * 5000 + ".5}": ("", "a number of 5003 characters", "JSON"),
    '{"name": "a", "count": 1, "count": 1}': ("", "the key 'count' twice", "JSON"),
    "null": ("", "null", "an object"),
    "[]": ("", "[]", "an object"),
    '"name"': ("", "'name'", "an object"),
    "{}": ("name", "nothing", "this field"),
    '{"name": null}': ("name", "null", "a valid string"),
    '{"name": "a", "count": "1"}': ("count", "'1'", "a valid integer"),
    '{"name": "a", "count": true}': ("count", "true", "a valid integer"),
    '{"name": "a", "count": 1.5}': ("count", "1.5", "a valid integer"),
    b'{"name": "\xff"}': ("", "bytes that are not UTF-8, at byte 10", "JSON"),
    "\ud800": ("", "bytes that are not UTF-8, at byte 0", "JSON"),
    '{"name": "' + "a" * 200 + '", "count": "' + "b" * 200 + '"}': (
        "count",
        f"'{'b' * 57}...{'b' * 58}'",
        "a valid integer",
    ),
}


@pytest.mark.parametrize("model", [Plain, Model])
@pytest.mark.parametrize("text", FAULTS, ids=lambda text: repr(text[:20]))
def test_each_fault_is_an_error_with_what_was_found_and_wanted(text: str | bytes, model: type) -> None:
    field_, found, wanted = FAULTS[text]
    with pytest.raises(DamagedRecordError) as error:
        read_json_text(text, model, source="some.json")
    lines = ["some.json: damaged, or of another kind", f"  found: {found}", f"  want:  {wanted}"]
    assert str(error.value) == "\n".join([*lines[:1], *([f"  field: {field_}"] if field_ else []), *lines[1:]])
    assert error.value.one_line == f"{field_ + ': ' if field_ else ''}found {found}, want {wanted}"


def test_a_name_of_a_field_with_control_characters_is_shown_without_them() -> None:
    with pytest.raises(DamagedRecordError) as error:
        read_json_text('{"name": "a", "sent": {"\\u001b[2J": "\\u001b"}}', Plain, source="s")
    assert error.value.one_line == r"sent.'\x1b[2J': found '\x1b', want a valid integer"


def test_a_sound_record_is_read_and_unknown_fields_are_left_out() -> None:
    text = '{"name": "a", "share": 1, "pair": ["b", 2], "later": 1}'
    assert read_json_text(text, Plain, source="s") == Plain("a", 0, 1.0, ("b", 2))
    assert read_json_text(text, Model, source="s") == Model(name="a")
    assert read_json_text('{"a": 1}', dict[str, float], source="s") == {"a": 1.0}


def test_numbers_may_be_infinite_if_the_reader_says_so() -> None:
    found = read_json_text('{"a": NaN, "b": 1e999}', dict[str, float], source="s", finite=False)
    assert math.isnan(found["a"])
    assert found["b"] == math.inf


def test_only_a_plain_file_within_the_limit_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as stream:
        stream.truncate(200 << 20)
    (tmp_path / "circle").symlink_to("circle")
    faults = {
        tmp_path: "a folder",
        tmp_path / "pipe": "a device or a pipe",
        Path("/dev/zero"): "a device or a pipe",
        tmp_path / "large": "more than 64 MiB",
        tmp_path / "circle": "cannot be read: Too many levels of symbolic links",
        tmp_path / "a\0b": "cannot be read: embedded null byte",
        tmp_path / ("a" * 300): "cannot be read: File name too long",
    }
    for path, found in faults.items():
        with pytest.raises(DamagedRecordError) as error:
            read_json_record(path, Plain)
        assert error.value.found == found
    for missing in (tmp_path / "none", tmp_path / "large" / "below"):
        with pytest.raises(FileNotFoundError):
            read_json_record(missing, Plain)


def test_a_damaged_file_is_set_aside_under_a_free_name_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "a.json"
    why = "found no JSON: Expecting property name enclosed in double quotes at line 1, column 2, want JSON"
    for name in ("a.json.damaged", "a.json.damaged-2"):
        file.write_text("{")
        with caplog.at_level(logging.WARNING):
            assert read_or_set_aside(file, Plain) is None
        assert (tmp_path / name).read_text() == "{"
        assert not file.exists()
        assert caplog.messages[-1] == f"{file}: damaged ({why}); it is kept as {name}, and the work goes on without it"
    assert read_or_set_aside(file, Plain) is None
    file.write_text('{"name": "a"}')
    assert read_or_set_aside(file, Plain) == Plain("a")


def test_a_file_that_cannot_be_renamed_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "none" / "a.json"
    assert set_aside(file) == file
    assert caplog.messages == [f"{file}: damaged, and cannot be renamed (No such file or directory); it is ignored"]


def test_of_a_file_with_a_record_in_each_line_the_good_ones_are_kept(tmp_path: Path) -> None:
    file, good = tmp_path / "a.jsonl", b'{"name": "a"}\n'
    damaged = b'{"name"\n' + b"null\n" + b"\xff\n" + b"\n" + b"x" * (3 * LARGEST_LINE) + b"\n"
    file.write_bytes(good + damaged + good + b'{"name": "cut')
    end = len(good) * 2 + len(damaged)
    assert read_json_lines(file, Plain) == ([Plain("a")] * 2, end, 4)
    assert read_json_lines(file, Plain, limit=1) == ([Plain("a")], len(good), 0)
    assert read_json_lines(file, Plain, start=len(good)) == ([Plain("a")], end, 4)
    assert read_json_lines(file, Plain, start=end) == ([], end, 0)
    assert read_json_lines(file, Plain, start=end + 1000) == ([], end + 1000, 0)
