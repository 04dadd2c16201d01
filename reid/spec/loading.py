"""Reading a spec: YAML, `${…}` interpolation, dotted overrides, aliases, types and ranges, rules across fields.

Every error of a file is reported at once, each with its place, what was found and what is wanted.
"""

import difflib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from yaml import YAMLError

from reid.errors import SpecError
from reid.spec.field_types import PATTERNS
from reid.spec.names import did_you_mean
from reid.spec.partial_spec import PartialSpec, take_out
from reid.spec.rules import contradictions, idle, read_as, replaced
from reid.spec.sections import Experiment
from reid.spec.tao import ALIASES, IDLE

logger = logging.getLogger(__name__)


def load_spec(
    path: str | os.PathLike[str] | None = None,
    *,
    text: str | None = None,
    overrides: Sequence[str] = (),
    told: bool = False,
) -> Experiment:
    """The experiment that a YAML file (or text) and overrides like "train.num_epochs=2" describe.

    Notices (an older spelling, a key that does nothing here) go to the log, unless they were `told` before: where this
    is a part of a spec that another stage has read. Raises SpecError, with all that is wrong.
    """
    where = Path(path).name if path is not None else "spec"
    raw = _read(path, text, where)
    given = _apply_overrides(raw, overrides)
    values = _resolve(raw, where)
    wrong: list[str] = []
    notices = list(_rename_and_drop(values, wrong))
    spec, refused = _validated(values)
    wrong += [_explain(details, where, given) for details in refused]
    wrong += [f"{_place(field, where, given)}: {what}" for field, what in contradictions(spec)]
    if wrong:
        raise SpecError("\n".join(wrong))
    assert isinstance(spec, Experiment)
    notices += [f"{field}: {how}" for field, how in read_as(spec)]
    notices += [f"{field} has no effect: {why}" for field, why in idle(spec)]
    for notice in [] if told else notices:
        logger.warning("%s: %s", where, notice)
    return spec


def tell_what_a_pipeline_replaces(spec: Experiment) -> None:
    """Warns of the spec's paths that a pipeline does not read, because its stages hand each other theirs."""
    for field, instead in replaced(spec):
        logger.warning("%s has no effect in a pipeline: %s", field, instead)


def _read(path: str | os.PathLike[str] | None, text: str | None, where: str) -> DictConfig:
    try:
        if path is not None:
            text = Path(path).read_text(encoding="utf-8")
        loaded = OmegaConf.create(text or "")
    except FileNotFoundError:
        raise SpecError(f"{path}: no such spec file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: the spec cannot be read: {error}") from None
    except YAMLError as error:
        raise SpecError(f"{where}: not YAML: {error}") from None
    if not isinstance(loaded, DictConfig):
        raise SpecError(f"{where}: found a {type(OmegaConf.to_object(loaded)).__name__}, want sections (key: value)")
    return loaded


def _apply_overrides(raw: DictConfig, overrides: Sequence[str]) -> set[str]:
    """Merges the overrides into raw; returns the dotted names that they set, sections that they bring included."""
    given, written = set(), OmegaConf.to_container(raw)
    for override in overrides:
        name, equals, _ = override.partition("=")
        if not equals or not name.strip():
            raise SpecError(f"command line: {override!r}: want section.field=value, e.g. train.num_epochs=2")
        try:
            raw.merge_with(OmegaConf.from_dotlist([override]))
        except (OmegaConfBaseException, YAMLError) as error:
            raise SpecError(f"command line: {override!r}: {str(error).splitlines()[0]}") from None
        _drop_other_spelling(raw, name)
        given.add(ALIASES.get(name, name))
        given.update(_sections_new_by(name, written))
    return given


def _drop_other_spelling(raw: DictConfig, name: str) -> None:
    """An override of a field wins over the file's alias of it, and the other way round."""
    for spellings in ALIASES.items():
        if name in spellings:
            section, _, key = spellings[spellings.index(name) - 1].rpartition(".")
            OmegaConf.select(raw, section).pop(key, None)


def _sections_new_by(name: str, written: Any) -> Iterator[str]:
    """The sections above a field that the file does not have, so that the override brings them."""
    *sections, _ = name.split(".")
    for count, key in enumerate(sections, start=1):
        written = written.get(key) if isinstance(written, dict) else None
        if not isinstance(written, dict):
            yield ".".join(sections[:count])


def _resolve(raw: DictConfig, where: str) -> dict[str, Any]:
    try:
        values = OmegaConf.to_container(raw, resolve=True)
    except OmegaConfBaseException as error:
        raise SpecError(f"{where}: {str(error).splitlines()[0]}") from None
    assert isinstance(values, dict)
    return {str(key): _without_missing(value) for key, value in values.items()}


def _without_missing(value: Any) -> Any:
    """TAO writes ??? for "to be given on the command line": not given is null."""
    if isinstance(value, dict):
        return {key: _without_missing(inner) for key, inner in value.items()}
    return None if value == "???" else value


def _rename_and_drop(values: dict[str, Any], wrong: list[str]) -> Iterator[str]:
    """Moves aliases to their field, removes keys that do nothing; yields the lines that the user should read.

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
    for name in ("wandb", "train.checkpointer", "gen_trt_engine.tensorrt.calibration"):
        section, key = _section_of(values, name)
        if section is not None and section.get(key) in ({}, None):
            section.pop(key, None)


def _section_of(values: dict[str, Any], name: str) -> tuple[dict[str, Any] | None, str]:
    *sections, key = name.split(".")
    section: Any = values
    for part in sections:
        section = section.get(part) if isinstance(section, dict) else None
    return (section if isinstance(section, dict) else None), key


def _validated(values: dict[str, Any]) -> tuple[Experiment | PartialSpec, list[ErrorDetails]]:
    """The spec; or, where values are refused, the rest of it, and what pydantic says of them."""
    try:
        return Experiment.model_validate(values), []
    except ValidationError as error:
        refused = error.errors()
    names = set()
    for details in refused:
        location = details["loc"]
        names.add(take_out(values, location[:-1] if details["type"] == "missing" else location))
        if details["type"] == "extra_forbidden":
            names.add(_meant(location))
    try:
        return PartialSpec(Experiment.model_validate(values), names), refused
    except ValidationError:  # a key that is no text, say, which no field's name leads to
        return PartialSpec(Experiment(), set(Experiment.model_fields)), refused


def _place(field: str, where: str, given: set[str]) -> str:
    set_by_hand = any(field == name or field.startswith(f"{name}.") for name in given)
    return f"command line: {field}" if set_by_hand else f"{where}: {field}"


def _explain(details: ErrorDetails, where: str, given: set[str]) -> str:
    """One line of ours for one of pydantic's errors."""
    location = details["loc"]
    field = ".".join(str(part) for part in location)
    place = _place(field, where, given)
    if details["type"] == "extra_forbidden":
        meant = _meant(location)
        return f"{place}: unknown key{f'; did you mean {meant}?' if meant else ''}"
    if details["type"] == "missing":
        return f"{place}: not given; it has no default"
    found = details["input"]
    shown = "a section" if isinstance(found, dict) else repr(found)
    return f"{place}: found {shown} ({type(found).__name__}); want: {_wanted(details)}"


def _wanted(details: ErrorDetails) -> str:
    limits = details.get("ctx", {})
    words = {
        "greater_than": "above {gt}",
        "greater_than_equal": "at least {ge}",
        "less_than": "below {lt}",
        "less_than_equal": "at most {le}",
        "literal_error": "{expected}",
        "int_type": "a whole number",
        "float_type": "a number",
        "string_type": "a text",
        "bool_type": "true or false",
        "list_type": "a list, e.g. [40, 70]",
        "dict_type": "a section (key: value)",
        "model_type": "a section (key: value)",
        "too_short": "at least {min_length} values",
    }
    if details["type"] == "string_pattern_mismatch":
        return PATTERNS.get(limits["pattern"], f"a text like {limits['pattern']}")
    template = words.get(details["type"])
    wanted = template.format(**limits) if template else details["msg"]
    if details["type"] == "literal_error" and isinstance(details["input"], str):
        wanted += did_you_mean(details["input"], re.findall(r"'([^']+)'", limits["expected"]))
    return wanted


def _meant(location: tuple[int | str, ...]) -> str:
    """The key that was probably meant by an unknown one: in the same section first, then anywhere; "" for none."""
    section: type[BaseModel] | None = Experiment
    for part in location[:-1]:
        field = section.model_fields.get(str(part)) if section else None
        section = next((kind for kind in _models(field.annotation)), None) if field else None
    wrong = str(location[-1])
    close = difflib.get_close_matches(wrong, section.model_fields, n=1, cutoff=0.6) if section else []
    if close:
        return ".".join([*map(str, location[:-1]), close[0]])
    return next((name for name in all_fields() if name.rpartition(".")[2] == wrong), "")


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    kinds = getattr(annotation, "__args__", (annotation,))
    return (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))


def all_fields(section: type[BaseModel] = Experiment, prefix: str = "") -> Iterator[str]:
    """Dotted names of all fields, sections left out."""
    for name, field in section.model_fields.items():
        inner = next(_models(field.annotation), None)
        if inner:
            yield from all_fields(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
