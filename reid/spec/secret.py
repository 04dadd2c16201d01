"""A spec without its secrets: what may be written, logged and passed on."""

from typing import Any

import yaml

from reid.spec.facts import Secret
from reid.spec.fields import fields_with
from reid.spec.sections import Experiment


def open_values(spec: Experiment) -> dict[str, Any]:
    """The spec's values, secrets left out."""
    values = spec.model_dump()
    for name in fields_with(Secret):
        *sections, key = name.split(".")
        section = values
        for part in sections:
            section = section[part]
        del section[key]
    return values


def open_text(spec: Experiment) -> str:
    """The spec without its secrets as YAML that loads."""
    return str(yaml.safe_dump(open_values(spec), sort_keys=False, allow_unicode=True))
