"""A spec on one line that holds only what differs from the defaults.

Kubeflow's form edits a text in a field of one line, which drops line breaks: YAML of many lines would not survive it.
"""

import copy
import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from reid.spec.sections import Experiment

NOT_PLAIN_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff]")
"""Characters that JSON may hold as they are and YAML may not."""


def one_line(values: Mapping[str, Any]) -> str:
    """JSON on one line, which is YAML too, that loads as the same spec as these values (of a valid spec)."""
    wanted = _loaded(values)
    part = copy.deepcopy(dict(values))
    _leave_out(part, part, wanted)
    text = json.dumps(part, ensure_ascii=False)
    return NOT_PLAIN_IN_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _leave_out(section: dict[str, Any], part: dict[str, Any], wanted: dict[str, Any] | None) -> None:
    """Takes every field out of a section of the spec `part` without which the spec stays the one that is wanted."""
    for key in list(section):
        if isinstance(section[key], dict):
            _leave_out(section[key], part, wanted)
        value = section.pop(key)
        if _loaded(part) != wanted:
            section[key] = value


def _loaded(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """All values of the spec that these values describe; None if they describe none."""
    try:
        return Experiment.model_validate(values).model_dump()
    except ValidationError:
        return None
