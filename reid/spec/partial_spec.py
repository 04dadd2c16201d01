"""A spec without the values that were refused, so that everything else that is wrong with it is found too."""

from collections.abc import Sequence, Set
from typing import Any

from reid.spec.field_types import Section


class RefusedField(Exception):
    """The value of a field was asked for, and that value was refused."""


class PartialSpec:
    """A section without its `refused` fields and sections, given by dotted names: to read one raises RefusedField."""

    def __init__(self, section: Section, refused: Set[str], name: str = "") -> None:
        self._section, self._refused, self._name = section, refused, name

    def __getattr__(self, key: str) -> Any:
        name = f"{self._name}.{key}" if self._name else key
        if name in self._refused:
            raise RefusedField(name)
        value = getattr(self._section, key)
        return PartialSpec(value, self._refused, name) if isinstance(value, Section) else value


def take_out(values: dict[str, Any], location: Sequence[int | str]) -> str:
    """Removes the field at a location, whole even if the location is within a list; returns its dotted name."""
    above: list[str] = []
    section = values
    for key in map(str, location):
        inner = section.get(key)
        if not isinstance(inner, dict) or len(above) == len(location) - 1:
            section.pop(key, None)
            return ".".join([*above, key])
        section, above = inner, [*above, key]
    return ""
