"""What a field of the spec takes, its default and its meaning, in words: read from its annotation and docstring."""

import ast
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from reid.spec.field_types import PATTERNS, Section
from reid.spec.fields import section_in, section_of_items

KINDS = {int: "whole number", float: "number", str: "text", bool: "true or false"}
BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


@dataclass(frozen=True)
class Described:
    """A field or a section of the spec, described in words."""

    name: str
    """Dotted, from the top of the spec."""
    wanted: str
    """What it takes: "whole number, at least 1"; "" for a section."""
    default: str
    """Its default as YAML writes it; "" for a section and for a field that has none."""
    meaning: str
    section: type[Section] | None = None
    """The section that it is, or may be (dataset.synthetic); None for any other field."""
    items: type[Section] | None = None
    """The section that each item is, if it is a list of sections (dataset.train_sets)."""

    @property
    def key(self) -> str:
        """The last part of the name."""
        return self.name.rpartition(".")[2]

    @property
    def is_section(self) -> bool:
        """Whether it always is a section; dataset.synthetic may be null."""
        return self.section is not None and not self.default

    def sentence(self) -> str:
        """What it takes, and its meaning."""
        return f"{self.wanted}. {self.meaning}" if self.meaning else f"{self.wanted}."


def children(prefix: str, section: type[Section]) -> list[Described]:
    """The fields and sections directly in a section whose dotted name is `prefix`, in its order."""
    meanings = _meanings(section)
    return [
        _describe(f"{prefix}.{name}" if prefix else name, field, meaning=meanings.get(name, ""))
        for name, field in section.model_fields.items()
    ]


@cache
def _meanings(section: type[Section]) -> dict[str, str]:
    """The docstring under each field of a section, read from its source.

    pydantic could read them too (use_attribute_docstrings), but would do so in every process that loads a spec.
    """
    inherited = [base for base in section.__bases__ if issubclass(base, Section) and base is not Section]
    (defined,) = ast.parse(inspect.getsource(section)).body
    assert isinstance(defined, ast.ClassDef)
    return {name: meaning for base in inherited for name, meaning in _meanings(base).items()} | {
        field.target.id: inspect.cleandoc(below.value.value)
        for field, below in pairwise(defined.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)
    }


def described(prefix: str, section: type[Section]) -> Iterator[Described]:
    """All fields and sections in a section whose dotted name is `prefix`, at any depth."""
    for entry in children(prefix, section):
        yield entry
        if entry.section:
            yield from described(entry.name, entry.section)


def _describe(name: str, field: FieldInfo, *, meaning: str) -> Described:
    section = section_in(field.annotation)
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    if isinstance(default, Section):
        return Described(name, "", "", " ".join((type(default).__doc__ or "").split()), section)
    shown = "" if field.is_required() else as_yaml(default)
    items = section_of_items(field.annotation)
    return Described(name, wanted(field.annotation, field.metadata), shown, meaning, section, items)


def wanted(annotation: Any, limits: Sequence[Any] = ()) -> str:
    """What a value of this annotation is: its kind, its choices or its range."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return wanted(parts[0], [*limits, *parts[1:]])
    if origin in (Union, UnionType):
        kinds = [wanted(part, limits) for part in parts if part is not type(None)]
        return "; or ".join([*kinds, "null"] if type(None) in parts else kinds)
    if origin is Literal:
        *choices, last = map(as_yaml, parts)
        return f"{', '.join(choices)} or {last}"
    if origin in (list, dict):
        held = wanted(parts[-1])
        return f"list of: {held}" if origin is list else f"section of own keys, each: {held}"
    return "section" if section_in(annotation) else ", ".join([KINDS[annotation], *_range(limits)])


def _range(limits: Sequence[Any]) -> Iterator[str]:
    """The limits in words. Pydantic keeps those of a part of an annotation in a FieldInfo."""
    for limit in limits:
        if isinstance(limit, FieldInfo):
            yield from _range(limit.metadata)
            continue
        for name, words in BOUNDS.items():
            if (bound := getattr(limit, name, None)) is not None:
                yield f"{words} {bound}"
        if pattern := getattr(limit, "pattern", None):
            yield PATTERNS.get(pattern, f"as {pattern}")


def as_yaml(value: Any) -> str:
    """A value in a line of YAML."""
    if value == "":
        return '""'
    return str(yaml.safe_dump(value, default_flow_style=True, width=10_000)).removesuffix("...\n").strip()
