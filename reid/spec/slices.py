"""The part of the spec that a stage of the pipeline is handed: the fields that it reads, and no others.

The cache key of a stage is made from its part of the spec: a change of a field does not invalidate the results of
stages that do not read it.
"""

from typing import Any

import yaml

from reid.spec.facts import Stage
from reid.spec.fields import fields_of_stage
from reid.spec.sections import Experiment


def stage_slice(spec: Experiment, stage: Stage) -> str:
    """The fields that a stage reads, as YAML that loads as a spec."""
    whole = spec.model_dump()
    whole["dataset"]["store_dir"] = spec.store_dir  # it depends on results_dir, which no stage is handed
    part: dict[str, Any] = {}
    for name in fields_of_stage(stage):
        source, target = whole, part
        *sections, key = name.split(".")
        for section in sections:
            source, target = source[section], target.setdefault(section, {})
        target[key] = source[key]
    return str(yaml.safe_dump(part, sort_keys=False))
