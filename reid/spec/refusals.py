"""Pydantic's errors in a spec as lines that say where they are, what was found and what is wanted."""

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic_core import ErrorDetails

from reid.spec.facts import Secret
from reid.spec.field_types import PATTERNS, Section
from reid.spec.fields import fields_of, fields_with, section_in, section_of_items
from reid.spec.names import did_you_mean
from reid.spec.sections import Experiment


def place_of(field: str, where: str, given: Mapping[str, str]) -> str:
    """The field, and what gave it: an override (`given`: its field -> where it comes from), else the file `where`."""
    origins = (origin for name, origin in given.items() if field == name or field.startswith(f"{name}."))
    return f"{next(origins, where)}: {field}"


def refusal(details: ErrorDetails, where: str, given: Mapping[str, str]) -> str:
    """One of pydantic's errors as one line: where, what was found, what is wanted."""
    location = details["loc"]
    field = ".".join(str(part) for part in location)
    place = place_of(field, where, given)
    if details["type"] == "extra_forbidden":
        meant = nearest_key(location)
        return f"{place}: unknown key{f'; did you mean {meant}?' if meant else ''}"
    if details["type"] == "missing":
        return f"{place}: not given; it has no default"
    found = details["input"]
    shown = "a section" if isinstance(found, dict) else "a secret" if field in fields_with(Secret) else repr(found)
    return f"{place}: found {shown} ({type(found).__name__}); want: {_wanted(details)}"


def _wanted(details: ErrorDetails) -> str:
    limits = details.get("ctx", {})
    words = {
        "greater_than": "above {gt}",
        "greater_than_equal": "at least {ge}",
        "less_than": "below {lt}",
        "less_than_equal": "at most {le}",
        "literal_error": "{expected}",
        "int_type": "a whole number",
        "float_type": "a number",
        "finite_number": "a finite number",
        "string_type": "a text",
        "bool_type": "true or false",
        "list_type": "a list, e.g. [40, 70]",
        "dict_type": "a section (key: value)",
        "model_type": "a section (key: value)",
        "too_short": "at least {min_length} values",
    }
    if details["type"] == "string_pattern_mismatch":
        return PATTERNS.get(limits["pattern"], f"a text like {limits['pattern']}")
    template = words.get(details["type"])
    wanted = template.format(**limits) if template else details["msg"]
    if details["type"] == "literal_error" and isinstance(details["input"], str):
        wanted += did_you_mean(details["input"], re.findall(r"'([^']+)'", limits["expected"]))
    return wanted


def nearest_key(location: tuple[int | str, ...]) -> str:
    """The key that an unknown one probably meant: one of the same section, else one of any; "" if none is alike."""
    section: type[Section] | None = Experiment
    for part in location[:-1]:
        if isinstance(part, int):  # an item of a list, whose section is known by now
            continue
        field = section.model_fields.get(part) if section else None
        section = section_in(field.annotation) or section_of_items(field.annotation) if field else None
    wrong = str(location[-1])
    close = difflib.get_close_matches(wrong, section.model_fields, n=1, cutoff=0.6) if section else []
    if close:
        return ".".join([*map(str, location[:-1]), close[0]])
    return next((name for name in fields_of() if name.rpartition(".")[2] == wrong), "")


def no_texts(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """The fields whose text holds NUL, which no file name and no argument can; each with what was found and wanted."""
    for name, value in values.items():
        field = f"{above}{name}"
        items = list(enumerate(value)) if isinstance(value, list) else [("", value)]
        for place, item in items:
            if isinstance(item, dict):
                yield from no_texts(item, f"{field}.{place}.".replace("..", "."))
            elif isinstance(item, str) and "\0" in item:
                yield f"{field}.{place}".rstrip("."), f"found {item!r} (str); want: a text without the character NUL"
