"""Inputs that nobody honest writes: right ones with other values, cut, doubled, or something else altogether."""

import copy
import json
from typing import Any

from hypothesis import strategies as st

DEEP, DIGITS, LONG = "@deep@", "@digits@", "@long@"
ODD_VALUES: list[Any] = [None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63), 10**9, 0.5, -0.0, 1e308, float("inf")]
ODD_VALUES += [float("nan"), "", " ", "0", "nan", "a\0b", "../..", "/etc/passwd", "\ud800", "\x1b[2J", "<script>"]
ODD_VALUES += [[], {}, [[]], [None], {"": None}, [1, 2], DEEP, DIGITS, LONG]
SPELLED = {DEEP: b"[" * 100_000, DIGITS: b"9" * 5_000, LONG: b'"' + b"a" * 1_000_000 + b'"'}
ALPHABET = "ab:{}[]!&*?|>-'\"\\\n $.0123,#%@\t=/_()<>\0\ud800\u202e\x1bé"


def json_document(documents: list[bytes]) -> st.SearchStrategy[bytes]:
    """One of these documents with one to three values replaced, left out or doubled; sometimes cut as well."""
    return st.builds(
        _changed,
        st.sampled_from(documents),
        st.lists(
            st.tuples(st.integers(0, 10_000), st.sampled_from(["set", "drop", "twice"]), st.sampled_from(ODD_VALUES)),
            min_size=1,
            max_size=3,
        ),
        st.one_of(st.just(1.0), st.just(1.0), st.floats(0, 1)),
    )


def text(documents: list[bytes]) -> st.SearchStrategy[bytes]:
    """Any text of characters that mean something, alone or in the place of a part of one of these documents."""
    loose = st.text(ALPHABET, max_size=40).map(lambda made: made.encode("utf-8", "surrogatepass"))
    return st.one_of(loose, st.builds(_spliced, st.sampled_from(documents), st.floats(0, 1), loose, st.integers(0, 30)))


def any_bytes(documents: list[bytes]) -> st.SearchStrategy[bytes]:
    """One of these documents with bytes changed, put in, left out, or cut; without atheris's sense for coverage."""
    return st.builds(_spliced, st.sampled_from(documents), st.floats(0, 1), st.binary(max_size=16), st.integers(0, 30))


def _spliced(document: bytes, place: float, piece: bytes, left_out: int) -> bytes:
    start = int(place * len(document))
    return document[:start] + piece + document[start + left_out :]


def _changed(document: bytes, changes: list[tuple[int, str, Any]], kept: float) -> bytes:
    whole = {"": json.loads(document)}
    for number, what, value in changes:
        places = _places(whole)
        holder, key = places[number % len(places)]
        if what == "set" or holder is whole:
            holder[key] = copy.deepcopy(value)
        elif what == "drop":
            del holder[key]
        elif isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        else:
            holder[f"{key} "] = holder[key]
    made = json.dumps(whole[""]).encode()
    for word, spelled in SPELLED.items():
        made = made.replace(json.dumps(word).encode(), spelled, 1)
    return made[: int(kept * len(made))]


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (holder, key) below a value, the value's own children first."""
    found, waiting = [], [value]
    while waiting:
        holder = waiting.pop(0)
        for key in list(holder if isinstance(holder, dict) else range(len(holder))):
            found.append((holder, key))
            if isinstance(holder[key], dict | list):
                waiting.append(holder[key])
    return found
