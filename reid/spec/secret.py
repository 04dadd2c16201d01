"""A spec without its secrets: what may be written, logged and passed on."""

from typing import Any

import yaml

from reid.spec.sections import Experiment

SECRETS = {"encryption_key"}


def open_values(spec: Experiment) -> dict[str, Any]:
    """The spec's values, secrets left out."""
    return spec.model_dump(exclude=SECRETS)


def open_text(spec: Experiment) -> str:
    """The same as YAML that loads."""
    return str(yaml.safe_dump(open_values(spec), sort_keys=False, allow_unicode=True))
