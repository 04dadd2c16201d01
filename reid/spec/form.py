"""Parameters of the pipeline that win over fields of the spec: Kubeflow's form and its comparison of runs show them.

Which fields they are stands on the fields, as facts: CountsGpus and InForm.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from reid.errors import SpecError
from reid.spec.facts import CountsGpus, InForm
from reid.spec.fields import fields_with
from reid.spec.loading import load_spec
from reid.spec.sections import Experiment


def load_spec_of_form(text: str, parameters: Mapping[str, Any], *, warn: bool) -> Experiment:
    """The spec of this text with the fields that parameters of the pipeline replace.

    Raises SpecError, which names all that is wrong and the parameter that it came by.
    """
    given = {name: (parameter, value) for name, parameter, value in (*_fields(parameters), *_gpus(parameters))}
    return load_spec(
        text=text,
        overrides=[f"{name}={value}" for name, (_, value) in given.items()],
        origins={name: f"pipeline parameter {parameter}" for name, (parameter, _) in given.items()},
        warn=warn,
    )


def _fields(parameters: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(field, parameter, value) of the parameters that are filled in; an empty one leaves the spec as it is."""
    for name, fact in fields_with(InForm).items():
        if value := str(parameters.get(fact.parameter, "")).strip():
            yield name, fact.parameter, value


def _gpus(parameters: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(field, parameter, number) of the parameters that book GPUs; none (or 0) leaves the spec as it is."""
    for name, fact in fields_with(CountsGpus).items():
        text = str(parameters.get(fact.parameter) or "0").strip()
        if not text.isdecimal():
            raise SpecError(
                f"pipeline parameter {fact.parameter}: found {text!r}\n  want: a whole number of GPUs, from 0"
            )
        if int(text):
            yield name, fact.parameter, text
