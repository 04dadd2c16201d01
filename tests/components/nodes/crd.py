"""The published schema of TrainJob, and what is wrong with an object by it.

Kubernetes drops a field that the schema does not have without a word, so an unknown field is a fault here.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SCHEMA = json.loads(Path(__file__).with_name("trainjob.schema.json").read_text(encoding="utf-8"))["openAPIV3Schema"]
KINDS: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "boolean": (bool,),
    "number": (int, float),
}


def faults(value: Any, schema: dict[str, Any] = SCHEMA, where: str = "job") -> Iterator[str]:
    """Where an object does not keep to the schema, and how."""
    if schema.get("x-kubernetes-int-or-string"):
        if not isinstance(value, (int, str)):
            yield f"{where}: {value!r} is neither a number nor a text"
        elif "pattern" in schema and not re.search(schema["pattern"], str(value)):
            yield f"{where}: {value!r} is no quantity"
        return
    kind = schema.get("type", "object")
    if not isinstance(value, KINDS[kind]) or (kind == "integer" and isinstance(value, bool)):
        yield f"{where}: {value!r} is no {kind}"
    elif kind == "object":
        yield from _of_object(value, schema, where)
    elif kind == "array":
        yield from _of_array(value, schema, where)
    else:
        yield from _of_scalar(value, schema, where)


def _of_object(value: dict[str, Any], schema: dict[str, Any], where: str) -> Iterator[str]:
    known, others = schema.get("properties", {}), schema.get("additionalProperties")
    yield from (f"{where}: no {name}" for name in schema.get("required", ()) if name not in value)
    if where == "job":
        known = {**known, "metadata": {"type": "object", "additionalProperties": True}}
    for name, part in value.items():
        if name in known:
            yield from faults(part, known[name], f"{where}.{name}")
        elif isinstance(others, dict):
            yield from faults(part, others, f"{where}.{name}")
        elif not others and not where.endswith(".metadata"):
            yield f"{where}.{name}: unknown"


def _of_array(value: list[Any], schema: dict[str, Any], where: str) -> Iterator[str]:
    if len(value) > schema.get("maxItems", len(value)):
        yield f"{where}: {len(value)} entries"
    for number, part in enumerate(value):
        yield from faults(part, schema["items"], f"{where}[{number}]")
    if keys := schema.get("x-kubernetes-list-map-keys"):
        named = [tuple(part.get(key) for key in keys) for part in value]
        yield from (f"{where}: {name} twice" for name in sorted(set(named)) if named.count(name) > 1)


def _of_scalar(value: Any, schema: dict[str, Any], where: str) -> Iterator[str]:
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where}: {value!r} is none of {schema['enum']}"
    if isinstance(value, str) and not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        yield f"{where}: {len(value)} characters"
    if isinstance(value, int) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield f"{where}: {value} is out of range"
