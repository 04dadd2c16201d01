"""The rest of a spec some of whose values are refused, so that what else is wrong with it can be told as well."""

from collections.abc import Sequence, Set
from typing import Any

from reid.spec.field_types import Section


class RefusedField(Exception):
    """A field of the rest was asked for that has no value."""


class PartialSpec:
    """A section whose `refused` fields and sections, by their dotted names, cannot be read: RefusedField."""

    def __init__(self, section: Section, refused: Set[str], name: str = "") -> None:
        self._section, self._refused, self._name = section, refused, name

    def __getattr__(self, key: str) -> Any:
        name = f"{self._name}.{key}" if self._name else key
        if name in self._refused:
            raise RefusedField(name)
        value = getattr(self._section, key)
        return PartialSpec(value, self._refused, name) if isinstance(value, Section) else value


def take_out(values: dict[str, Any], location: Sequence[int | str]) -> str:
    """Removes what stands at a location, the field whole where it is within a list; returns the field's dotted name."""
    above: list[str] = []
    section = values
    for key in map(str, location):
        inner = section.get(key)
        if not isinstance(inner, dict) or len(above) == len(location) - 1:
            section.pop(key, None)
            return ".".join([*above, key])
        section, above = inner, [*above, key]
    return ""
