"""What each field of `re_ranking`, `evaluate` and `inference` does, and the two at the top of the spec."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from reid.data.market1501 import Manifest
from reid.embedding_files.reading import read_embeddings
from reid.embeddings import Embeddings
from reid.errors import SpecError
from reid.files.encryption import is_encrypted
from reid.retrieval.distance import l2_normalize
from reid.training.resume import LATEST
from tests.reference import k_reciprocal_distance, ranking, squared_euclidean
from tests.spec.lab import Lab

RANKING = {"k1": 4, "k2": 2, "lambda_value": 0.3}
OTHER_RANKING = {"k1": 9, "k2": 5, "lambda_value": 0.8}


def results_dir(lab: Lab) -> None:
    lab.task("validate", f"results_dir={lab.folder}/mine")
    assert (lab.folder / "mine" / "validate" / "report.html").exists()
    assert lab.spec("results_dir=/mine", "dataset.store_dir=null").store_dir == "/mine/store"
    assert lab.warnings("results_dir=''") == ["spec: results_dir is empty: its default is used"]


def encryption_key(lab: Lab) -> None:
    assert not is_encrypted(lab.train().folder / LATEST)
    lab.patch.setenv("REID_ENCRYPTION_KEY", "")  # puts what the task sets here back after the test
    lab.task("train", "encryption_key=open sesame", f"results_dir={lab.folder}")
    assert is_encrypted(lab.folder / "train" / LATEST)


def _evaluated(lab: Lab, *overrides: str) -> Path:
    """The folder of an evaluation of the trained model."""
    folder = lab.root / f"evaluated{len(lab.kept)}"
    settings = [f"evaluate.checkpoint={lab.train().folder / LATEST}", f"evaluate.results_dir={folder}"]
    lab.once(("evaluate", *overrides), lambda: lab.task("evaluate", *settings, *overrides) and folder)
    done: Path = lab.once(("evaluated", *overrides), lambda: folder)
    return done


def _everything_else(lab: Lab) -> Path:
    """An evaluation with every field of re_ranking changed."""
    values = OTHER_RANKING | {"re_ranking": "false", "max_rank": 3, "num_query": 2}
    return _evaluated(lab, *(f"re_ranking.{field}={value}" for field, value in values.items()))


def _nearest(folder: Path, values: dict[str, Any]) -> NDArray[np.float64]:
    """(Q,) the re-ranked distance of each query's nearest image, by the slow re-statement of the paper."""
    embeddings = Embeddings.load_npz(folder / "embeddings.npz")
    queries = sum("/query/" in path for path in embeddings.paths)
    vectors, person, camera = l2_normalize(embeddings.vectors), embeddings.person, embeddings.camera
    distance = k_reciprocal_distance(squared_euclidean(vectors, vectors), queries, **values)
    gallery = {"gallery_person": person[queries:], "gallery_camera": camera[queries:]}
    nearest = [
        distance[query, ranking(distance[query], person=person[query], camera=camera[query], **gallery)[0]]
        for query in range(queries)
    ]
    return np.array(nearest)


def _of_ranking(field: str) -> Callable[[Lab], None]:
    """The re-ranked distances are those of the changed field, and not those of its old value."""

    def check(lab: Lab) -> None:
        for folder, values in ((_evaluated(lab), RANKING), (_everything_else(lab), OTHER_RANKING)):
            with (folder / "per_query.csv").open() as file:
                found = np.array([float(row["reranked_top1_distance"]) for row in csv.DictReader(file)])
            assert found == pytest.approx(_nearest(folder, values), abs=2e-5)  # six digits, of float32
            other = OTHER_RANKING if values is RANKING else RANKING
            assert found != pytest.approx(_nearest(folder, values | {field: other[field]}), abs=1e-3)

    return check


def re_ranking_device(lab: Lab) -> None:
    """A GPU that is not there is refused before anything is embedded; the CPU is named in the log."""
    lab.patch.setattr(torch.cuda, "device_count", lambda: 0)
    for field, value in (("evaluate.checkpoint", lab.train().folder), ("triton.url", "localhost:1")):
        with pytest.raises(SpecError) as caught:
            task = "evaluate" if field.startswith("evaluate") else "start_client"
            lab.task(task, f"{field}={value}", "re_ranking.device=cuda:1", f"results_dir={lab.folder}")
        assert str(caught.value) == (
            "re_ranking.device: cuda:1 is not there\n  found: 0 GPUs\n  want:  one of them, auto or cpu"
        )
    overrides = (f"evaluate.checkpoint={lab.train().folder}", f"results_dir={lab.folder}", "re_ranking.device=cpu")
    said = lab.said(lambda: lab.task("evaluate", *overrides))
    assert [line for line in said if line.startswith("re-ranking") and "on the CPU: about" in line]


def re_ranking(lab: Lab) -> None:
    for folder, headline in ((_evaluated(lab), "reranked"), (_everything_else(lab), "plain")):
        assert json.loads((folder / "metrics.json").read_text())["headline"] == headline


def _sheet_size(folder: Path) -> tuple[int, int]:
    with Image.open(folder / "sampled_matches.png") as sheet:
        return sheet.size


def max_rank(lab: Lab) -> None:
    wide, narrow = (_sheet_size(folder)[0] for folder in (_evaluated(lab), _everything_else(lab)))
    assert narrow < wide
    curves = [(folder / "cmc_curve.svg").read_text() for folder in (_evaluated(lab), _everything_else(lab))]
    assert len(curves[0]) > len(curves[1])


def num_query(lab: Lab) -> None:
    high, low = (_sheet_size(folder)[1] for folder in (_evaluated(lab), _everything_else(lab)))
    assert low < high


def _asked(lab: Lab, task: str) -> Path:
    """The folder of an evaluation or inference with every field of its section changed."""
    folder = lab.root / f"{task} asked"
    values = {
        "checkpoint": lab.train("train.seed=4").folder / LATEST,
        "test_dataset": lab.other_images("test"),
        "query_dataset": lab.other_images("query"),
        "results_dir": folder,
    }
    values |= {
        "evaluate": {"output_sampled_matches_plot": folder / "m.svg", "output_cmc_curve_plot": folder / "c.pdf"},
        "inference": {"output_file": folder / "rows.npz", "data_type": "float16", "shard_rows": 3},
    }[task]
    lab.once(("asked", task), lambda: lab.task(task, *(f"{task}.{field}={value}" for field, value in values.items())))
    return folder


def _images_of(lab: Lab, task: str, split: str) -> None:
    manifest = Manifest.load(_asked(lab, task) / "dataset.json")
    assert {"query": manifest.query, "test": manifest.gallery}[split].root == lab.other_images(split)


def evaluate_checkpoint(lab: Lab) -> None:
    assert str(lab.train("train.seed=4").folder / LATEST) in (_asked(lab, "evaluate") / "report.html").read_text()


def inference_checkpoint(lab: Lab) -> None:
    """Without one it is the model of the task train, and a row is another."""
    lab.task("train", f"results_dir={lab.folder}")
    lab.task("inference", f"results_dir={lab.folder}")
    ours = json.loads((lab.folder / "inference" / "inference.json").read_text())[0]
    asked = read_embeddings(_asked(lab, "inference") / "rows.npz").all_rows()
    assert Path(ours["img_path"]).name == Path(asked.paths[0]).name
    assert ours["embedding"] != pytest.approx(asked.vectors[0], abs=0.01)


def inference_data_type(lab: Lab) -> None:
    with np.load(next(_asked(lab, "inference").glob("rows-00000-of-*.npz"))) as arrays:
        assert arrays["vectors"].dtype == np.float16
    no_effect = "only .npz and .parquet in inference.output_file have it"
    for field in ("data_type=float16", "shard_rows=2"):
        assert lab.warnings(f"inference.{field}") == [
            f"spec: inference.{field.split('=')[0]} has no effect: {no_effect}"
        ]


def inference_shard_rows(lab: Lab) -> None:
    files = sorted(_asked(lab, "inference").glob("rows-*.npz"))
    rows = [len(np.load(file)["vectors"]) for file in files]
    assert len(files) > 1
    assert set(rows[:-1]) == {3}
    assert rows[-1] <= 3


def _written(task: str, name: str) -> Callable[[Lab], None]:
    def check(lab: Lab) -> None:
        assert (_asked(lab, task) / name).stat().st_size

    return check


def _gpus(task: str, override: str, wanted: str, absent: int) -> Callable[[Lab], None]:
    """More is asked for than a machine with two GPUs has."""

    def check(lab: Lab) -> None:
        model = lab.train().folder
        lab.patch.setattr(torch.cuda, "device_count", lambda: 2)
        with pytest.raises(SpecError) as caught:
            lab.task(task, f"{task}.{override}", f"{task}.checkpoint={model}", f"results_dir={lab.folder}")
        assert str(caught.value) == (
            f"{task}.num_gpus, {task}.gpu_ids: GPUs {wanted} are asked for, {absent} of them are not there\n"
            f"  found: 2 (0..1)\n  want: at most 2, e.g. {task}.num_gpus=2"
        )

    return check


def _cpu_processes(task: str) -> Callable[[Lab], None]:
    """Two processes say so, and give what one gives."""

    def check(lab: Lab) -> None:
        said, figures = [], []
        for processes in (1, 2):
            folder = lab.folder / f"{processes}"
            overrides = (f"{task}.cpu_processes={processes}", f"{task}.checkpoint={lab.train().folder}")
            said.append(
                lab.said(lambda: figures.append(lab.task(task, *overrides, f"results_dir={folder}").metrics))  # noqa: B023
            )
        assert "no GPU here: running on the CPU" in said[0]
        assert "no GPU here: running on the CPU, 2 processes" in said[1]
        timeless = [{name: value for name, value in each.items() if "second" not in name} for each in figures]
        assert timeless[0] == timeless[1]

    return check


def _common(task: str) -> dict[str, Callable[[Lab], None]]:
    return {
        f"{task}.test_dataset": lambda lab: _images_of(lab, task, "test"),
        f"{task}.query_dataset": lambda lab: _images_of(lab, task, "query"),
        f"{task}.results_dir": _written(task, "experiment.yaml"),
        f"{task}.num_gpus": _gpus(task, "num_gpus=3", "[0, 1, 2]", 1),
        f"{task}.gpu_ids": _gpus(task, "gpu_ids=[5]", "[5]", 1),
        f"{task}.cpu_processes": _cpu_processes(task),
    }


TASKS: dict[str, Callable[[Lab], None]] = {
    "results_dir": results_dir,
    "encryption_key": encryption_key,
    "re_ranking.re_ranking": re_ranking,
    **{f"re_ranking.{field}": _of_ranking(field) for field in RANKING},
    "re_ranking.device": re_ranking_device,
    "re_ranking.max_rank": max_rank,
    "re_ranking.num_query": num_query,
    "evaluate.checkpoint": evaluate_checkpoint,
    "evaluate.output_sampled_matches_plot": _written("evaluate", "m.svg"),
    "evaluate.output_cmc_curve_plot": _written("evaluate", "c.pdf"),
    **_common("evaluate"),
    "inference.checkpoint": inference_checkpoint,
    "inference.output_file": _written("inference", "rows-00000-of-00013.npz"),
    "inference.data_type": inference_data_type,
    "inference.shard_rows": inference_shard_rows,
    **_common("inference"),
}
