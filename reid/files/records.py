"""JSON that this project wrote, or a server sent, and that may have been cut, retyped or replaced since.

Nothing of it is believed: it is read within a limit of size, only from a plain file, and checked against a model before
anybody uses it. Every fault is a DamagedRecordError, which says what was found and what was wanted. Own bookkeeping
that is damaged is moved out of the way (`set_aside`), and the work goes on without it.
"""

import json
import logging
import math
import os
import reprlib
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar

from pydantic import TypeAdapter, ValidationError

from reid.errors import ArtifactError

logger = logging.getLogger(__name__)

Model = TypeVar("Model")
LARGEST_BYTES = 64 << 20
LARGEST_LINE = 1 << 20
MOST_DIGITS = 300
"""The longest number that is read; the largest float has 309 digits."""


class DamagedRecordError(ArtifactError):
    """A record is damaged, or is something else: its text names the source, the field, what was found and wanted."""

    def __init__(self, source: str | Path, *, found: str, wanted: str, field: str = "") -> None:
        self.source, self.field, self.found, self.wanted = str(source), field, found, wanted
        line = f"  field: {field}\n" if field else ""
        super().__init__(f"{source}: damaged, or of another kind\n{line}  found: {found}\n  want:  {wanted}")

    @property
    def one_line(self) -> str:
        """The same in one line, without the source."""
        return f"{self.field + ': ' if self.field else ''}found {self.found}, want {self.wanted}"


def read_json_record(
    path: Path, model: type[Model], *, largest_bytes: int = LARGEST_BYTES, finite: bool = True
) -> Model:
    """The record in a JSON file; `model` is a pydantic model, a dataclass, or a type such as dict[str, float].

    Raises FileNotFoundError if there is no such file, and DamagedRecordError if it is not the JSON of such a record.
    """
    content = read_plain_file(path, largest_bytes=largest_bytes)
    return read_json_text(content, model, source=path, largest_bytes=largest_bytes, finite=finite)


def read_json_text(
    text: str | bytes,
    model: type[Model],
    *,
    source: str | Path,
    largest_bytes: int = LARGEST_BYTES,
    finite: bool = True,
) -> Model:
    """The record in a JSON text. Raises DamagedRecordError, which names the source, if it is none.

    Types are taken strictly: "1" is no number, and 1.0 no whole number. A key that comes twice, an endless number and,
    if the numbers have to be `finite`, NaN and infinite ones are refused.
    """
    content = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    parse_json(content, source=source, largest_bytes=largest_bytes, finite=finite)
    try:
        record: Model = _adapter(model).validate_json(content, strict=True)
    except ValidationError as error:
        _raise_first(error, source)
    return record


def parse_json(content: bytes, *, source: str | Path, largest_bytes: int = LARGEST_BYTES, finite: bool = True) -> Any:
    """The value of a JSON text whose form its reader checks. Raises DamagedRecordError as `read_json_text` does."""
    if len(content) > largest_bytes:
        raise DamagedRecordError(source, found=f"more than {_size(largest_bytes)}", wanted="a smaller JSON")
    try:
        return json.loads(
            content.decode("utf-8"),
            parse_constant=_refuse if finite else None,
            parse_float=_finite if finite else None,
            parse_int=_short,
            object_pairs_hook=_each_key_once,
        )
    except UnicodeDecodeError as error:
        found = f"bytes that are not UTF-8, at byte {error.start}"
    except RecursionError:
        found = "brackets nested too deeply"
    except _Refused as error:
        found = str(error)
    except json.JSONDecodeError as error:
        found = f"no JSON: {error.msg} at line {error.lineno}, column {error.colno}" if content.strip() else "nothing"
    raise DamagedRecordError(source, found=found, wanted="JSON")


def read_json_lines(
    path: Path, model: type[Model], *, start: int = 0, limit: int | None = None, finite: bool = True
) -> tuple[list[Model], int, int]:
    """The records of a file with one JSON in each line, from byte `start` on: at most `limit` of them, the byte after
    the last whole line that was read, and the number of lines up to there that are no such record.

    A last line without a line end is not read. Raises FileNotFoundError, and DamagedRecordError if it is no plain file.
    """
    require_plain_file(path)
    records: list[Model] = []
    damaged, end = 0, start
    with open(path, "rb", opener=_open_without_waiting) as stream:
        stream.seek(start)
        while limit is None or len(records) < limit:
            line, length = _next_line(stream)
            if not length:
                break
            end += length
            try:
                records.append(read_json_text(line, model, source=path, finite=finite))
            except DamagedRecordError:
                damaged += line != b"\n"
    return records, end, damaged


def _next_line(stream: BinaryIO) -> tuple[bytes, int]:
    """The next whole line and its length in bytes, 0 if there is none; of an endless line only the beginning."""
    line = part = stream.readline(LARGEST_LINE)
    length = len(part)
    while part and not part.endswith(b"\n"):
        part = stream.readline(LARGEST_LINE)
        length += len(part)
    return line, length if part else 0


def read_plain_file(path: Path, *, largest_bytes: int = LARGEST_BYTES) -> bytes:
    """The bytes of a file. Raises FileNotFoundError, and DamagedRecordError if it is too large, or no plain file."""
    require_plain_file(path)
    try:
        with open(path, "rb", opener=_open_without_waiting) as stream:
            content = stream.read(largest_bytes + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedRecordError(path, found=f"cannot be read: {error.strerror}", wanted="a JSON file") from None
    if len(content) > largest_bytes:
        raise DamagedRecordError(path, found=f"more than {_size(largest_bytes)}", wanted="a smaller JSON file")
    return content


def set_aside(path: Path, *, why: str = "") -> Path:
    """Renames a damaged file to NAME.damaged (.damaged-2 and so on) and warns of it; returns its new path.

    A file that cannot be renamed stays, and its own path is returned.
    """
    number, reason = 1, f" ({why})" if why else ""
    while os.path.lexists(target := path.with_name(f"{path.name}.damaged{f'-{number}' if number > 1 else ''}")):
        number += 1
    try:
        path.rename(target)
    except OSError as error:
        logger.warning("%s: damaged%s, and cannot be renamed (%s); it is ignored", path, reason, error.strerror)
        return path
    logger.warning("%s: damaged%s; it is kept as %s, and the work goes on without it", path, reason, target.name)
    return target


def read_or_set_aside(path: Path, model: type[Model], *, largest_bytes: int = LARGEST_BYTES) -> Model | None:
    """The record in a file of our own bookkeeping; None if there is none, or if it was damaged and is set aside now."""
    try:
        return read_json_record(path, model, largest_bytes=largest_bytes)
    except FileNotFoundError:
        return None
    except DamagedRecordError as error:
        set_aside(path, why=error.one_line)
        return None


def make_way(path: Path) -> None:
    """Sets aside what stands at the path and is no plain file: a folder, a pipe."""
    try:
        require_plain_file(path)
    except FileNotFoundError:
        return
    except DamagedRecordError as error:
        set_aside(path, why=error.one_line)


def require_plain_file(path: Path) -> None:
    """Raises FileNotFoundError, and DamagedRecordError if it is a folder, a pipe or a device, or cannot be seen."""
    wanted = "a JSON file"
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise
    except NotADirectoryError as error:
        raise FileNotFoundError(error.errno, error.strerror, str(path)) from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        text = getattr(error, "strerror", None) or str(error)
        raise DamagedRecordError(path, found=f"cannot be read: {text}", wanted=wanted) from None
    if stat.S_ISDIR(mode):
        raise DamagedRecordError(path, found="a folder", wanted=wanted)
    if not stat.S_ISREG(mode):
        raise DamagedRecordError(path, found="a device or a pipe", wanted=wanted)


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


class _Refused(ValueError):
    """JSON as Python reads it, but not what is read here; the text says what was found."""


def _refuse(name: str) -> NoReturn:
    raise _Refused(f"the number {name}")


def _finite(text: str) -> float:
    if len(text) > MOST_DIGITS:
        raise _Refused(f"a number of {len(text)} characters")
    value = float(text)
    if not math.isfinite(value):
        raise _Refused(f"the number {text}")
    return value


def _short(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise _Refused(f"a number of {len(text)} digits")
    return int(text)


def _each_key_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        left = dict.fromkeys(found)
        twice = next(name for name, _ in pairs if left.pop(name, name) is not None)
        raise _Refused(f"the key {shown(twice)} twice")
    return found


def _raise_first(error: ValidationError, source: str | Path) -> NoReturn:
    """Raises the first of the model's objections as a DamagedRecordError."""
    first = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(str(step) if str(step).isprintable() else ascii(step) for step in first["loc"])
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if first["type"] == "json_invalid":
        raise DamagedRecordError(source, found=message, wanted="JSON") from None
    if first["type"] == "extra_forbidden":
        raise DamagedRecordError(source, field=field, found=shown(first["input"]), wanted="no such field") from None
    if first["type"] in {"missing", "missing_argument"}:
        raise DamagedRecordError(source, field=field, found="nothing", wanted="this field") from None
    raise DamagedRecordError(source, field=field, found=shown(first["input"]), wanted=message) from None


def shown(value: Any) -> str:
    """The value for an error: shortened, without control characters."""
    return _WORDS[value] if value is None or isinstance(value, bool) else _SHORT.repr(value)


_WORDS = {None: "null", True: "true", False: "false"}
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 120
_SHORT.maxlevel = 2


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count} bytes"


_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}


def _adapter(model: Any) -> TypeAdapter[Any]:
    if model not in _ADAPTERS:
        _ADAPTERS[model] = TypeAdapter(model)
    return _ADAPTERS[model]
