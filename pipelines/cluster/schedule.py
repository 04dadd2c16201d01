"""When a recurring run starts: a crontab's five fields, which Kubeflow Pipelines wants with the second in front."""

import re

from reid.errors import PipelineError

MONTH_NAMES = "jan feb mar apr may jun jul aug sep oct nov dec"
DAY_NAMES = "sun mon tue wed thu fri sat"
MONTHS = {name: number for number, name in enumerate(MONTH_NAMES.split(), 1)}
DAYS = {name: number for number, name in enumerate(DAY_NAMES.split())}
FIELDS: list[tuple[str, int, int, dict[str, int]]] = [
    ("second", 0, 59, {}),
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day of the month", 1, 31, {}),
    ("month", 1, 12, MONTHS),
    ("day of the week", 0, 6, DAYS),
]
PART = re.compile(r"(?:(?P<all>[*?])|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>\d+))?")
WANT = "five fields as in a crontab, e.g. '0 3 * * *' for 3:00 each day, or six, the first of which is the second"


def cron_of(text: str) -> str:
    """The schedule in six fields. Raises PipelineError, which names the field that is wrong.

    KFP would take five fields too, but as second, minute, hour, day and month.
    """
    given = text.split()
    fields = ["0", *given] if len(given) == len(FIELDS) - 1 else given
    if len(fields) != len(FIELDS):
        raise PipelineError(f"--every: found {text!r}, which has {len(given)} fields\n  want: {WANT}")
    for field, (name, low, high, names) in zip(fields, FIELDS, strict=True):
        if not all(_is_part(part, low, high, names) for part in field.lower().split(",")):
            raise PipelineError(f"--every: found {field!r} as {name}\n  want: {WANT}; a {name} is {low} to {high}")
    return " ".join(fields)


def _is_part(part: str, low: int, high: int, names: dict[str, int]) -> bool:
    found = PART.fullmatch(part)
    if not found or (found["step"] and int(found["step"]) < 1):
        return False
    if found["all"]:
        return True
    numbers = [names.get(word, int(word) if word.isdecimal() else -1) for word in found.group("first", "last") if word]
    return all(low <= number <= high for number in numbers) and numbers == sorted(numbers)
