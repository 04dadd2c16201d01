"""Reading a spec: YAML, `${…}` interpolation, dotted overrides, aliases, types and ranges, rules across fields.

Every error of a file is reported at once, each with its place, what was found and what is wanted (`refusals.py`).
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from yaml import YAMLError

from reid.errors import SpecError
from reid.files.paths import given_path
from reid.files.yaml_input import RefusedInputError, check_yaml, check_yaml_value, read_yaml_text, shortened
from reid.spec.fields import fields_of
from reid.spec.idle import idle, read_as, replaced
from reid.spec.partial_spec import PartialSpec, take_out
from reid.spec.refusals import nearest_key, no_texts, place_of, refusal
from reid.spec.rules import contradictions
from reid.spec.sections import Experiment
from reid.spec.tao import ALIASES, IDLE

logger = logging.getLogger(__name__)

COMMAND_LINE = "command line"
FIELD_NAME = re.compile(r"[^\W\d][\w-]*(\.[\w-]+|\[\w+\])*")
"""A dotted name: keys, and places in lists."""
NOT_VALUES = (OmegaConfBaseException, ValueError, KeyError, IndexError, AttributeError, RecursionError)
"""What OmegaConf and YAML's constructors raise for text that is YAML and no value."""


def load_spec(
    path: str | os.PathLike[str] | None = None,
    *,
    text: str | None = None,
    overrides: Sequence[str] = (),
    origins: Mapping[str, str] = MappingProxyType({}),
    warn: bool = True,
) -> Experiment:
    """The experiment that a YAML file (or text) and overrides like "train.num_epochs=2" describe.

    `origins` says where the override of a field comes from, for errors; without an entry it is the command line. An
    older spelling or a key that does nothing here is a warning in the log. `warn` is False if this is a part of a spec
    that another stage has read, and warned of, before; rules across fields are then applied only if all of these fields
    are in the part. Raises SpecError, which names all that is wrong.
    """
    where = Path(path).name if path is not None else "spec"
    raw = _read(path, text, where)
    given = _apply_overrides(raw, overrides, origins)
    values = _resolve(raw, where)
    wrong: list[str] = []
    notices = list(_rename_and_drop(values, wrong))
    spec, refused = _validated(values)
    wrong += [refusal(details, where, given) for details in refused]
    wrong += [f"{place_of(field, where, given)}: {what}" for field, what in no_texts(values)]
    checked = spec if warn or isinstance(spec, PartialSpec) else _given(spec, values)
    wrong += [f"{place_of(field, where, given)}: {what}" for field, what in contradictions(checked)]
    if wrong:
        raise SpecError("\n".join(wrong))
    assert isinstance(spec, Experiment)
    notices += [f"{field}: {how}" for field, how in read_as(spec)]
    notices += [f"{field} has no effect: {why}" for field, why in idle(spec)]
    for notice in notices if warn else []:
        logger.warning("%s: %s", where, notice)
    return spec


def warn_of_replaced_paths(spec: Experiment) -> None:
    """Warns of the given paths that a pipeline does not read, because its stages hand each other theirs."""
    for field, instead in replaced(spec):
        logger.warning("%s has no effect in a pipeline: %s", field, instead)


def _read(path: str | os.PathLike[str] | None, text: str | None, where: str) -> DictConfig:
    try:
        if path is not None:
            text = read_yaml_text(given_path(os.fspath(path)))
        check_yaml(text or "")
        loaded = OmegaConf.create(text or "")
    except FileNotFoundError:
        raise SpecError(f"{given_path(os.fspath(path or '')).absolute()}: no such spec file") from None
    except OSError as error:
        raise SpecError(f"{path}: the spec cannot be read: {error}") from None
    except RefusedInputError as error:
        raise SpecError(f"{where}: {error}") from None
    except YAMLError as error:
        raise SpecError(f"{where}: not YAML: {error}") from None
    except NOT_VALUES as error:
        field = getattr(error, "full_key", None)
        raise SpecError(f"{where}: {f'{field}: ' if field else ''}{_first_line(error)}") from None
    assert isinstance(loaded, DictConfig)
    return loaded


def _check_override(override: str) -> None:
    """Raises RefusedInputError if an override names no field, or if its value is none that a spec could have."""
    name, _, value = override.partition("=")
    if not FIELD_NAME.fullmatch(name.strip()):
        raise RefusedInputError("want section.field=value, e.g. train.num_epochs=2")
    check_yaml_value(value)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _apply_overrides(raw: DictConfig, overrides: Sequence[str], origins: Mapping[str, str]) -> dict[str, str]:
    """Merges the overrides into raw; returns the dotted names of the fields they set and the sections they add.

    Each name leads to where its override comes from.
    """
    given: dict[str, str] = {}
    written = OmegaConf.to_container(raw)
    for override in overrides:
        name, equals, _ = override.partition("=")
        origin = origins.get(name, COMMAND_LINE)
        if not equals or not name.strip():
            raise SpecError(f"{COMMAND_LINE}: {override!r}: want section.field=value, e.g. train.num_epochs=2")
        try:
            _check_override(override)
            raw.merge_with(OmegaConf.from_dotlist([override]))
        except (RefusedInputError, YAMLError, *NOT_VALUES) as error:
            raise SpecError(f"{origin}: {shortened(override)}: {_first_line(error)}") from None
        _drop_other_spelling(raw, name)
        given[ALIASES.get(name, name)] = origin
        given.update(dict.fromkeys(_sections_new_by(name, written), origin))
    return given


def _drop_other_spelling(raw: DictConfig, name: str) -> None:
    """An override of a field wins over the file's alias of it, and the other way round."""
    for spellings in ALIASES.items():
        if name in spellings:
            section, _, key = spellings[spellings.index(name) - 1].rpartition(".")
            OmegaConf.select(raw, section).pop(key, None)


def _sections_new_by(name: str, written: Any) -> Iterator[str]:
    """The sections above a field that the file does not have, so that the override adds them."""
    *sections, _ = name.split(".")
    for count, key in enumerate(sections, start=1):
        written = written.get(key) if isinstance(written, dict) else None
        if not isinstance(written, dict):
            yield ".".join(sections[:count])


def _resolve(raw: DictConfig, where: str) -> dict[str, Any]:
    try:
        values = OmegaConf.to_container(raw, resolve=True)
    except NOT_VALUES as error:
        raise SpecError(f"{where}: {_first_line(error)}") from None
    assert isinstance(values, dict)
    return {str(key): _without_missing(value) for key, value in values.items()}


def _without_missing(value: Any) -> Any:
    """The value with null for TAO's ???, which says that the command line has to give it."""
    if isinstance(value, dict):
        return {key: _without_missing(inner) for key, inner in value.items()}
    return None if value == "???" else value


def _rename_and_drop(values: dict[str, Any], wrong: list[str]) -> Iterator[str]:
    """Moves aliases to their field and removes keys that do nothing; yields a warning for each that the user gave.

    An alias that contradicts its field adds a line to `wrong`.
    """
    if values.get("results_dir") == "":
        del values["results_dir"]
        yield "results_dir is empty: its default is used"
    for alias, field in ALIASES.items():
        section, key = _section_of(values, alias)
        if section is not None and key in section:
            found = section.pop(key)
            name = field.rpartition(".")[2]
            if name in section and section[name] != found:
                wrong.append(f"{alias} = {found!r} and {field} = {section[name]!r} are one field; want one of them")
                continue
            section[name] = found
            yield f"{alias} is read as {field}"
    for name, (default, why) in IDLE.items():
        section, key = _section_of(values, name)
        if section is not None and key in section and section.pop(key) != default:
            yield f"{name} has no effect: {why}"
    for name in ("wandb", "train.checkpointer"):
        section, key = _section_of(values, name)
        if section is not None and section.get(key) in ({}, None):
            section.pop(key, None)


def _given(spec: Experiment, values: dict[str, Any]) -> PartialSpec:
    """The spec without the fields that `values` does not have, for the whole spec may not have their defaults."""
    return PartialSpec(spec, {name for name in fields_of() if not _has(values, name)})


def _has(values: dict[str, Any], name: str) -> bool:
    section, key = _section_of(values, name)
    return section is not None and key in section


def _section_of(values: dict[str, Any], name: str) -> tuple[dict[str, Any] | None, str]:
    *sections, key = name.split(".")
    section: Any = values
    for part in sections:
        section = section.get(part) if isinstance(section, dict) else None
    return (section if isinstance(section, dict) else None), key


def _validated(values: dict[str, Any]) -> tuple[Experiment | PartialSpec, list[ErrorDetails]]:
    """The spec; or, if values are refused, the rest of it, and what pydantic says of them."""
    try:
        return Experiment.model_validate(values), []
    except ValidationError as error:
        refused = error.errors()
    names = set()
    for details in refused:
        location = details["loc"]
        names.add(take_out(values, location[:-1] if details["type"] == "missing" else location))
        if details["type"] == "extra_forbidden":
            names.add(nearest_key(location))
    try:
        return PartialSpec(Experiment.model_validate(values), names), refused
    except ValidationError:  # e.g. a key that is no text, which cannot be taken out by a field's name
        return PartialSpec(Experiment(), set(Experiment.model_fields)), refused
