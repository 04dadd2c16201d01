"""The registry is MLflow's own, on SQLite."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reid.contract import Contract
from reid.deploy.pixel_port import PixelPort
from reid.errors import ArtifactError
from reid.files.encryption import decrypt
from reid.scoring.per_query import PER_QUERY
from reid.spec import load_spec
from reid.stages.register import _card, _choice, register
from reid.thresholds import KEY, Threshold, Thresholds
from reid.tracking.journal import Address
from reid.tracking.outbox import Outbox
from reid.tracking.pipeline_run import open_pipeline_run
from reid.tracking.stage_run import StageRun
from reid.tracking.store import connect
from tests.exporting import exported, images, prepared_inside
from tests.per_query_files import write_per_query

KNOWN = Thresholds((Threshold("0.1 % let in", 0.625, 0.875, 0.001, 0.5),), "9 images", 8, 1000)
FIGURES = {"mAP": 0.5, "rank1": 0.6, "reranked_mAP": 0.7, "reranked_rank1": 0.8}


class Registry:
    """An MLflow store, and a model to register in it again and again."""

    def __init__(self, folder: Path, onnx: Path) -> None:
        self.folder, self.onnx = folder, onnx
        self.uri = f"sqlite:///{folder}/mlflow.db"
        self.client, self.runs = connect(self.uri), 0
        sha256 = hashlib.sha256(onnx.read_bytes()).hexdigest()
        self.parity = {
            "passed": True, "worst_cosine": 0.99999, "images": 9, "checkpoint": "reid_model_best.pth",
            "checkpoint_sha256": "c" * 64, "onnx_sha256": sha256,
        }  # fmt: skip
        self.build = {"built": True, "package": "tensorrt", "version": "11.4", "onnx_sha256": sha256}

    def run(self) -> StageRun:
        self.runs += 1
        folder = self.folder / f"run{self.runs}"
        pipeline = open_pipeline_run(
            tracking_uri=self.uri, experiment="e", run_name="r", tags={}, params={}, results_dir=folder
        )
        return StageRun(Outbox(folder, Address(self.uri, "register", pipeline.start_stage("register", folder))))

    def add(
        self, *overrides: str, fingerprint: str = "these images", headline: str = "plain", run=None,
        parity: dict | None = None, build: dict | None = None, precision=None, evaluated: str = "", **figures: Any,
    ) -> tuple[str, str, str]:  # fmt: skip
        """Registers once more; the version, its alias and the reason. precision: of each query, if there is a table."""
        (self.folder / PER_QUERY).unlink(missing_ok=True)
        if precision is not None:
            write_per_query(self.folder / PER_QUERY, precision)
            figures |= {"mAP": float(np.mean(precision)), "evaluated_images": evaluated}
        written = {
            "metrics.json": {"headline": headline, **FIGURES, **figures},
            "parity.json": self.parity | (parity or {}),
            "build.json": self.build | (build or {}),
        }
        for name, content in written.items():
            (self.folder / name).write_text(json.dumps(content))
        self.outcome = register(
            load_spec(text="mlflow: {registered_model: m}", overrides=overrides),
            fingerprint=fingerprint,
            model=self.folder / "model",
            results=self.folder,
            onnx=self.onnx,
            parity=self.folder / "parity.json",
            engine=self.folder,
            registration=self.folder / "registration.json",
            run=run or self.run(),
        )
        done = json.loads((self.folder / "registration.json").read_text())
        return done["version"], done["alias"], done["reason"]

    @property
    def aliases(self) -> dict[str, str]:
        return {alias: str(version) for alias, version in self.client.get_registered_model("m").aliases.items()}


@pytest.fixture
def registry(tmp_path: Path, plain_onnx: Path) -> Registry:
    return Registry(tmp_path, plain_onnx)


@pytest.fixture(scope="module")
def plain_onnx(tmp_path_factory) -> Path:
    return exported(tmp_path_factory.mktemp("onnx") / "m.onnx", thresholds=KNOWN)[0]


@pytest.mark.slow
def test_the_page_of_the_registered_model_shows_the_figures_beside_their_data_sets(registry):
    registry.add(mAP_low=0.4, mAP_shop=0.25, data_sets=[["market", "m" * 64], ["shop", "s" * 64]])
    model = registry.client.get_logged_model(
        registry.client.get_model_version("m", "1").source.removeprefix("models:/")
    )
    shown = {row.key: (row.value, row.dataset_name, row.dataset_digest) for row in model.metrics}
    market = "market", "m" * 8
    assert shown == {
        **{name: (value, *market) for name, value in FIGURES.items()},
        **{"mAP_low": (0.4, *market), "mAP_shop": (0.25, "shop", "s" * 8)},
    }


@pytest.mark.slow
def test_champion_moves_to_a_better_map_on_the_same_test_set_only(registry):
    def add(**changes):
        return registry.add("mlflow.promotion=figure", **changes)

    assert add() == ("1", "champion", "the first version whose parity holds")
    assert add(mAP=0.4) == ("2", "challenger", "mAP 40.00 is not above version 1's 50.00")
    assert add() == ("3", "challenger", "mAP 50.00 is not above version 1's 50.00")
    assert registry.aliases == {"champion": "1", "challenger": "3"}
    assert add(mAP=0.6) == ("4", "champion", "mAP 60.00 is above version 1's 50.00")
    assert registry.aliases == {"champion": "4", "challenger": "3"}
    assert add(mAP=0.9, fingerprint="others") == (
        "5", "challenger", "version 4 is champion on another data set; figures on two sets cannot be compared",
    )  # fmt: skip
    # a headline compares with the champion's figure of the same kind, whatever the champion's own headline was
    assert add(headline="reranked", mAP=0.9) == (
        "6", "challenger", "re-ranked mAP 70.00 is not above version 4's 70.00",
    )  # fmt: skip
    registry.client.set_model_version_tag("m", "4", "mAP", "edited")
    assert add(mAP=0.9)[1:] == ("challenger", "version 4 is champion, and its mAP is not known")
    assert registry.aliases["champion"] == "4"


@pytest.mark.slow
def test_champion_moves_on_evidence_over_persons_and_not_on_luck(registry):
    before = np.linspace(0.2, 0.7, 40)
    luck = before + np.where(np.arange(40) % 2, 0.06, -0.05)
    assert registry.add(precision=before)[1] == "champion"
    version, alias, reason = registry.add(precision=luck)
    assert (version, alias) == ("2", "challenger")
    assert reason.startswith("mAP 45.50 is above version 1's 45.00: no difference shown, mAP +0.50 (-1.")
    assert reason.endswith(" over 40 persons")
    assert registry.add(precision=before + 0.02) == (
        "3", "champion", "mAP 47.00 is above version 1's 45.00: better, mAP +2.00 (+2.00 to +2.00) over 40 persons",
    )  # fmt: skip
    assert registry.add(precision=before)[1:] == (
        "challenger",
        "mAP 45.00 is not above version 3's 47.00: worse, mAP -2.00 (-2.00 to -2.00) over 40 persons",
    )
    assert registry.add("mlflow.promotion=figure", precision=luck + 0.02)[1] == "champion"


@pytest.mark.slow
def test_a_champion_that_was_trained_on_other_images_is_compared_if_both_were_tested_on_the_same(registry):
    before = np.linspace(0.2, 0.7, 40)
    assert registry.add(precision=before, evaluated="these")[1] == "champion"
    assert registry.add(precision=before + 0.02, evaluated="these", fingerprint="more training images")[1] == "champion"
    assert registry.add(precision=before + 0.04, evaluated="those")[1:] == (
        "challenger", "version 2 is champion on another data set; figures on two sets cannot be compared",
    )  # fmt: skip
    assert registry.client.get_model_version("m", "2").tags["evaluated_images"] == "these"


@pytest.mark.slow
def test_without_a_table_of_queries_the_figure_decides_and_the_reason_says_so(registry):
    before = np.linspace(0.2, 0.7, 40)
    registry.add(precision=before)
    assert registry.add(mAP=0.6)[1:] == (
        "champion",
        "mAP 60.00 is above version 1's 45.00; decided by the figure alone: "
        f"{registry.folder / PER_QUERY}: no such file",
    )
    assert registry.add(precision=before)[1:] == (
        "challenger",
        "mAP 45.00 is not above version 2's 60.00; decided by the figure alone: version 2 has no table of queries",
    )


@pytest.mark.slow
def test_the_champion_of_before_is_compared_by_the_table_of_its_evaluation(registry, monkeypatch):
    before = np.linspace(0.2, 0.7, 40)
    results = registry.folder / "pipeline"
    pipeline = open_pipeline_run(
        tracking_uri=registry.uri, experiment="e", run_name="r", tags={}, params={}, results_dir=results
    )
    scored = StageRun(
        Outbox(results / "e", Address(registry.uri, "evaluate", pipeline.start_stage("evaluate", results / "e")))
    )
    scored.log_artifact(write_per_query(results / "e" / PER_QUERY, before), "evaluate")
    scored.close()
    run = StageRun(
        Outbox(results / "r", Address(registry.uri, "register", pipeline.start_stage("register", results / "r")))
    )
    assert registry.add(run=run, mAP=0.45)[1] == "champion"
    assert registry.add(precision=before + 0.02)[1:] == (
        "champion", "mAP 47.00 is above version 1's 45.00: better, mAP +2.00 (+2.00 to +2.00) over 40 persons",
    )  # fmt: skip


@pytest.mark.slow
def test_a_retried_registration_makes_no_second_version_and_keeps_the_reason(registry):
    before = np.linspace(0.2, 0.7, 40)
    registry.add(precision=before)
    run = registry.run()
    first = registry.add(precision=before + 0.02, run=run)
    assert registry.add(precision=before + 0.02, run=run) == first
    assert registry.aliases == {"champion": "2"}


@pytest.mark.slow
def test_without_parity_nothing_becomes_champion_however_good(registry):
    def reason(*overrides: str, **changes) -> str:
        _, alias, why = registry.add(*overrides, **changes)
        assert alias == "challenger"
        return why.removeprefix("parity does not hold: ")

    assert reason(parity={"passed": False}) == "the ONNX broke a limit of the export"
    assert reason(parity={"onnx_sha256": "0"}) == "it was measured on another ONNX"
    assert reason("export.min_cosine=0.999995") == "least cosine 0.999990, below 0.999995 (export.min_cosine)"
    assert reason(build={"onnx_sha256": "0"}) == "the engine was built from another ONNX"
    assert reason(build={"parity": {"passed": False}}) == "the engine does not give the ONNX's embeddings"
    assert "champion" not in registry.aliases
    assert registry.add()[1] == "champion"


@pytest.mark.slow
def test_a_version_has_all_that_a_user_of_it_needs_and_where_it_comes_from(registry, tmp_path):
    import mlflow

    run = registry.run()
    registry.add("model.feat_dim=16", run=run, parity={"data_type": "INT8"})
    run.close()
    assert registry.client.get_run(run.run_id).data.params[KEY] == KNOWN.to_json()
    tags = registry.client.get_run(run.run_id).data.tags
    assert (tags["registry.version"], tags["registry.alias"]) == ("m/1", "champion")
    assert tags["registry.reason"] == "the first version whose parity holds"
    assert registry.outcome.lines == ["m version 1 is champion: the first version whose parity holds"]

    version = registry.client.get_model_version("m", "1")
    assert version.tags["fingerprint"] == "these images"
    assert version.tags[KEY] == KNOWN.to_json()
    assert version.tags["data_type"] == "INT8"
    assert "- Worst cosine between the ONNX (INT8) and torch: 0.999990 over 9 images." in version.description
    assert version.tags["checkpoint"] == f"{tmp_path / 'model'}/reid_model_best.pth"
    assert {len(version.tags[name]) for name in ("code_sha256", "spec_sha256", "onnx_sha256", "checkpoint_sha256")} == {
        64
    }
    assert "| mAP, re-ranked | 70.00 |" in version.description
    assert f"- code sha256: `{version.tags['code_sha256']}`" in version.description

    mlflow.set_tracking_uri(registry.uri)
    opened = mlflow.pyfunc.load_model("models:/m@champion")
    assert opened.metadata.metadata["reid.contract"]["height"] == 64
    signature = opened.metadata.signature
    assert [spec.shape for spec in signature.inputs] == [(-1, 3, 64, 32)]
    assert [spec.shape for spec in signature.outputs] == [(-1, 16)]
    example = opened.input_example["input"]
    assert np.asarray(example).shape == (1, 3, 64, 32)
    assert opened.predict({"input": images(2).numpy()})["fc_pred"].shape == (2, 16)
    folder = Path(mlflow.artifacts.download_artifacts("models:/m@champion"))
    beside = {path.name for path in folder.rglob("*") if path.is_file()}
    assert {"spec.yaml", "contract.json", "README.md", "metrics.json", "parity.json", "build.json"} <= beside
    spec = load_spec(next(folder.rglob("spec.yaml")))
    assert spec.model.feat_dim == 16
    assert Contract.from_json(next(folder.rglob("contract.json")).read_text()).embedding == 16


@pytest.mark.slow
def test_a_model_that_prepares_images_itself_is_registered_with_its_pixels(tmp_path):
    import mlflow

    port = PixelPort()
    registry = Registry(tmp_path, prepared_inside(tmp_path / "m.onnx", port))
    registry.add(parity={"inside": {"pixels": asdict(port)}})
    assert (
        "- Input `input` uint8 (batch, height, width, 3), RGB, 0 to 255; it prepares images itself."
        in registry.client.get_model_version("m", "1").description
    )
    mlflow.set_tracking_uri(registry.uri)
    opened = mlflow.pyfunc.load_model("models:/m@champion")
    assert [(spec.shape, spec.type) for spec in opened.metadata.signature.inputs] == [((-1, -1, -1, 3), np.uint8)]
    assert opened.predict({"input": np.zeros((2, 90, 40, 3), np.uint8)})["fc_pred"].shape == (2, 16)


@pytest.mark.slow
def test_an_encrypted_onnx_is_encrypted_in_the_registry_too(tmp_path, monkeypatch):
    monkeypatch.setenv("REID_ENCRYPTION_KEY", "open sesame")
    registry = Registry(tmp_path, exported(tmp_path / "m.onnx", key="open sesame")[0])
    assert registry.add()[1] == "champion"
    assert registry.add(mAP=0.6)[1] == "champion"
    weight = b"base.conv1.0.weight"
    assert [path for path in tmp_path.rglob("*") if path.is_file() and weight in path.read_bytes()] == []
    sealed = sorted(tmp_path.rglob("model.onnx.encrypted"))
    assert len(sealed) == 2
    assert weight in decrypt(sealed[0], "open sesame").getvalue()
    described = (sealed[0].parent / "MLmodel").read_text()
    assert "reid_encrypted_onnx" in described
    assert "fc_pred" in described
    version = registry.client.get_model_version("m", "2")
    model = registry.client.get_logged_model(version.source.removeprefix("models:/"))
    assert (model.name, model.status) == ("reid-onnx", "READY")
    assert {row.key: row.value for row in model.metrics} == FIGURES | {"mAP": 0.6}


def test_the_version_says_on_what_the_best_checkpoint_was_chosen_if_the_evaluation_does():
    figures = FIGURES | {"chosen_on": "12 held-out training persons, 143 images"}
    contract = Contract(height=64, width=32, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3, embedding=16)
    parity, build = {"worst_cosine": 1.0, "images": 9}, {"built": False, "reason": "none asked for"}
    card = _card(figures, parity, contract, build, {})
    assert "- The best checkpoint of the training was chosen on 12 held-out training persons, 143 images.\n" in card
    assert _choice(figures) == {"chosen_on": "12 held-out training persons, 143 images"}
    on_test = {"chosen_on": "the test images", "chosen_on_test": "yes", "mAP_low": 0.41, "mAP_high": 0.586}
    assert _choice(FIGURES | on_test) == {"chosen_on": "the test images", "chosen_on_test": "yes"}
    told = _card(FIGURES | on_test, parity, contract, build, {})
    assert (
        "- The best checkpoint was chosen on the images that it was tested on, so the figures are too good.\n" in told
    )
    assert "| mAP | 50.00 | 41.00 to 58.60 |\n| rank-1 |" in told
    assert told.isascii()
    assert "chosen on" not in _card(FIGURES, parity, contract, build, {})
    assert "Same person" not in _card(FIGURES, parity, contract, build, {})
    assert (
        "- Same person: cosine of 0.6250 or more, which 87.5 % of the pairs of one person reach and at most 0.1 % of "
        "the others; measured on 9 images.\n"
    ) in _card(FIGURES, parity, contract, build, {}, thresholds=KNOWN)


def test_without_a_server_nothing_is_registered_and_the_file_says_so(registry):
    parity = {"checkpoint": "m", "checkpoint_sha256": "c", "onnx_sha256": "o"}
    parity |= {"passed": True, "worst_cosine": 1.0, "images": 9}
    records = {"metrics.json": FIGURES | {"headline": "plain"}, "parity.json": parity}
    records["build.json"] = {"built": False, "onnx_sha256": "o"}
    for name, record in records.items():
        (registry.folder / name).write_text(json.dumps(record))
    outcome = register(
        load_spec(text=""),
        fingerprint="f",
        model=registry.folder,
        results=registry.folder,
        onnx=registry.onnx,
        parity=registry.folder / "parity.json",
        engine=registry.folder,
        registration=registry.folder / "registration.json",
        run=StageRun.none(),
    )
    why = "no MLflow server is named (MLFLOW_TRACKING_URI)"
    assert outcome.lines == [f"not registered: {why}"]
    assert json.loads((registry.folder / "registration.json").read_text()) == {"registered": False, "reason": why}


def test_a_missing_record_of_an_earlier_stage_is_named(tmp_path):
    with pytest.raises(ArtifactError) as caught:
        register(
            load_spec(text=""), fingerprint="f", model=tmp_path, results=tmp_path, onnx=tmp_path,
            parity=tmp_path / "p", engine=tmp_path, registration=tmp_path / "r", run=StageRun.none(),
        )  # fmt: skip
    assert str(caught.value).startswith(f"{tmp_path / 'metrics.json'}: no such file")
