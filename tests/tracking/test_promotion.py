"""Whether a version becomes champion, if somebody has edited the champion's tags."""

from pathlib import Path

import pytest

from reid.tracking.promotion import Champion, Entrant, contest


@pytest.mark.parametrize("tag", ["many", "nan", "1e999", "", "55.5"])
@pytest.mark.parametrize("by_evidence", [True, False])
def test_a_champion_whose_figure_is_no_fraction_stays_champion(tag: str, by_evidence: bool, tmp_path: Path) -> None:
    champion = Champion("3", {"fingerprint": "f", "mAP": tag}, lambda _: None)
    entrant = Entrant("mAP", {"mAP": 0.9}, "f", "", tmp_path / "per_query.csv", None)
    verdict = contest(entrant, champion, by_evidence=by_evidence, scratch=tmp_path)
    assert verdict == (False, "version 3 is champion, and its mAP is not known")
