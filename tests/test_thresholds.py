"""The thresholds that travel with a model: one line of JSON, the same for the same measurement."""

import json
from dataclasses import replace

import pytest

from reid.errors import ArtifactError
from reid.thresholds import KEY, Threshold, Thresholds, name_of_rate

ROWS = (
    Threshold("best F1", 0.5, 0.9, 0.01, 0.875),
    Threshold("equal error", 0.25, 0.95, 0.05, 0.5),
    Threshold(name_of_rate(1e-2), 0.5, 0.9, 0.01, 0.875),
    Threshold(name_of_rate(1e-4), 0.75, 0.625, 0.0001, 0.9375),
)
FOUND = Thresholds(ROWS, "4 query and 9 gallery images", 12, 20_000)


def test_one_line_brings_everything_back() -> None:
    text = FOUND.to_json()
    assert "\n" not in text and "{{" not in text and "}}" not in text  # templates of Argo have double braces
    assert Thresholds.from_json(text) == FOUND
    assert Thresholds.from_metadata({KEY: text}, where="model.onnx") == FOUND
    assert Thresholds.from_metadata({KEY: ""}, where="") is Thresholds.from_metadata({}, where="") is None


def test_a_difference_of_rounding_is_none_and_further_entries_do_no_harm() -> None:
    record = json.loads(FOUND.to_json()) | {"distance": "squared Euclidean"}
    record["thresholds"] = [row | {"cosine": row["cosine"] + 1e-9, "distance": 1.0} for row in record["thresholds"]]
    assert Thresholds.from_json(json.dumps(record, indent=2)).to_json() == FOUND.to_json()


def test_the_threshold_of_a_rate_is_found_by_the_rate() -> None:
    assert FOUND.rates == [0.01, 0.0001]
    assert FOUND.at_false_match_rate(0.0001).cosine == 0.75
    with pytest.raises(ArtifactError) as caught:
        FOUND.at_false_match_rate(0.001)
    assert str(caught.value) == (
        "false match rate 0.001: no threshold is known, of 20,000 pairs of different persons\n"
        "  want: one of 0.01, 0.0001"
    )
    with pytest.raises(ArtifactError, match="want: a measurement on more images: reid evaluate"):
        replace(FOUND, rows=ROWS[:2]).at_false_match_rate(0.001)


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{", "[" * 100_000, '{"thresholds": []}'),
        FOUND.to_json().replace("0.75", "1.75"),
        FOUND.to_json().replace("20000", "1e999"),
        FOUND.to_json().replace('"1 % let in"', "1"),
        FOUND.to_json().replace("1 % let in", "x % let in"),
        FOUND.to_json().replace("1 % let in", "inf % let in"),
    ],
)
def test_anything_else_is_refused_by_the_name_of_its_place(text: str) -> None:
    with pytest.raises(ArtifactError, match=r"^model\.onnx: not thresholds "):
        Thresholds.from_json(text, where="model.onnx")
