"""Makes a bundle: a model as a tracker or a server wants it, with its configuration, and a check of what it costs."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reid import __version__
from reid.contract import Contract
from reid.data.market1501 import Split
from reid.deploy.bundles.checking import Cost, cost, embed_crops, smaller_is_closer, table
from reid.deploy.bundles.graph import bundled_graph
from reid.deploy.bundles.program import Facts, Program
from reid.deploy.bundles.programs import PROGRAMS, TRITON
from reid.deploy.bundles.resampling import Crop
from reid.deploy.bundles.triton import PORT, README, write_self_contained
from reid.deploy.comparison import Embedded
from reid.deploy.onnx import data_type_of, read_onnx, thresholds_in
from reid.deploy.pixel_port import PIXELS_KEY
from reid.deploy.sample import choose_rows
from reid.deploy.triton import refuse_fp8
from reid.errors import ArtifactError
from reid.files.encryption import is_encrypted
from reid.files.hashes import file_sha256
from reid.files.locks import made_in_turn
from reid.files.writing import replacing_folder
from reid.stages.match import choose_threshold
from reid.stages.outcome import Outcome
from reid.thresholds import Threshold

if TYPE_CHECKING:
    from onnx import ModelProto

logger = logging.getLogger(__name__)

RECORD, RECIPE = "bundle.json", "README.md"
OPSET = 18


@dataclass(frozen=True)
class Wanted:
    """What the command line asks for."""

    program: str
    oversize: int
    """The input's size is that of the network times this."""
    batch_size: int
    false_match_rate: float | None
    """None: see `choose_threshold`."""
    images: int
    """The most images that the check embeds."""


def bundle(model: Path, output: Path, *, wanted: Wanted, crops: Sequence[Split] | None) -> Outcome:
    """Writes the folder `output`, whole or not at all, and measures the program's own preprocessing on `crops`.

    `model` is a checkpoint or an ONNX file of `reid export`; `crops` are query and gallery. A folder that holds a
    bundle is replaced. Raises ArtifactError if another folder is there, and if the model is encrypted, an engine, grey
    for a tracker, in FP8 for Triton, or prepares images itself.
    """
    _refuse_foreign(output)
    plain, contract = _plain_export(model)
    _refuse(plain, contract, model, wanted)
    threshold = choose_threshold(thresholds_in(plain, model), wanted.false_match_rate)
    folder = output.resolve()  # a link stays, and what it points to is replaced
    with made_in_turn(folder), replacing_folder(folder, beside=folder) as partial:
        costs, record = _write(partial, plain, contract, threshold, wanted=wanted, crops=crops)
        record = {"program": wanted.program, "reid": __version__, **record, **_origin(model, contract, threshold)}
        record["check"] = [asdict(entry) for entry in costs]
        record["files"] = _hashes(partial)
        (partial / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return _outcome(output, costs, threshold, wanted)


def _plain_export(model: Path) -> "tuple[ModelProto, Contract]":
    """The model as `reid export` writes it, and its contract; a checkpoint is exported in memory."""
    if model.suffix.lower() in (".engine", ".plan"):
        raise ArtifactError(
            f"{model}: a TensorRT engine\n  want: the ONNX file that it was built from, or a checkpoint"
        )
    if model.suffix.lower() == ".onnx":
        if model.is_file() and is_encrypted(model):
            raise ArtifactError(
                f"{model}: encrypted; no other program can read it\n  want: one of export.encrypted=false"
            )
        return read_onnx(model)
    import onnx

    from reid.deploy.onnx_export import onnx_bytes
    from reid.model.checkpoint import load_model

    loaded = load_model(model)
    form: dict[str, Any] = {"contract": loaded.contract, "settings": loaded.settings, "thresholds": loaded.thresholds}
    form["choice"] = loaded.choice
    content = onnx_bytes(loaded.network, where=model, opset=OPSET, **form)
    return onnx.load_model_from_string(content), loaded.contract


def _refuse(plain: "ModelProto", contract: Contract, model: Path, wanted: Wanted) -> None:
    if any(entry.key == PIXELS_KEY for entry in plain.metadata_props):
        raise ArtifactError(f"{model}: prepares images itself\n  want: one of export.preprocessing=outside")
    if wanted.program == TRITON:
        refuse_fp8(plain, model)
    elif contract.channels != 3:
        raise ArtifactError(
            f"{model}: takes grey images; {PROGRAMS[wanted.program].title} feeds three colours\n"
            "  want: a model of model.input_channels=3"
        )


def _refuse_foreign(folder: Path) -> None:
    if folder.resolve() in (Path.cwd(), *Path.cwd().parents):
        raise ArtifactError(
            f"{folder.resolve()}: you are in it, and a bundle's folder is replaced\n  want: another --output"
        )
    if folder.exists() and not (folder / RECORD).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArtifactError(f"{folder}: is there, and is no bundle\n  want: another --output, or the folder removed")


def _write(
    folder: Path,
    plain: "ModelProto",
    contract: Contract,
    threshold: Threshold | None,
    *,
    wanted: Wanted,
    crops: Sequence[Split] | None,
) -> tuple[list[Cost], dict[str, Any]]:
    """Writes the bundle's files but its record; returns the costs measured, and what the record says of the program."""
    chosen = _choose(crops, wanted.images) if crops else None
    if wanted.program == TRITON:
        return _write_repository(folder, plain, contract, threshold, wanted=wanted, crops=chosen)
    program = PROGRAMS[wanted.program]
    name, factor = program.model(contract), wanted.oversize
    content = bundled_graph(plain, contract, program.feed, factor=factor, where=name).SerializeToString(
        deterministic=True
    )
    (folder / name).write_bytes(content)
    facts = Facts(
        contract=contract,
        height=factor * contract.height,
        width=factor * contract.width,
        model=name,
        data_type=data_type_of(plain),
        batch_size=wanted.batch_size,
        threshold=threshold,
    )
    for file, text in program.files(facts, program.parameter).items():
        (folder / file).write_text(text, encoding="utf-8")
    value = program.parameter.value(threshold)
    record: dict[str, Any] = {
        "read": list(program.sources),
        "input": {"height": facts.height, "width": facts.width, "oversize": factor},
        "parameter": {program.parameter.name: value, "formula": program.parameter.formula},
    }
    return _measure(program, facts, plain, content, chosen) if chosen else [], record


def _choose(crops: Sequence[Split], limit: int) -> tuple[Split, Split]:
    """At most so many images of query and gallery, the same each time."""
    query, gallery = crops
    rows = choose_rows(query, gallery, limit=limit)
    chosen = [
        Split(split.root, tuple(split.images[row] for row in taken))
        for split, taken in zip((query, gallery), rows, strict=True)
    ]
    return chosen[0], chosen[1]


def _measure(
    program: Program, facts: Facts, plain: "ModelProto", content: bytes, crops: tuple[Split, Split]
) -> list[Cost]:
    """What the program's preprocessing costs as the bundle configures it, then in its other ways."""
    contract, exported = facts.contract, plain.SerializeToString()
    reference = _reference(contract, exported, crops)
    size = (facts.height, facts.width)
    found = embed_crops(content, lambda crop: program.feed(crop, *size), crops, what="as bundled")
    costs = [cost("as bundled", reference, found)]
    for case in program.cases(contract):
        height, width = (contract.height, contract.width) if case.plain else size
        found = embed_crops(
            exported if case.plain else content,
            lambda crop, case=case, height=height, width=width: case.feed(crop, height, width),  # type: ignore[misc]
            crops,
            what=case.name,
        )
        costs.append(cost(case.name, reference, found))
    return costs


def _reference(contract: Contract, exported: bytes, crops: tuple[Split, Split]) -> Embedded:
    """The embeddings of the crops as this project prepares them."""

    def prepare(crop: Crop) -> NDArray[np.float32]:
        picture = _picture(crop, contract).resize((contract.width, contract.height), Image.Resampling.BILINEAR)
        pixels = np.asarray(picture).reshape(1, contract.height, contract.width, contract.channels)
        prepared: NDArray[np.float32] = contract.preprocess(pixels)[0]
        return prepared

    return embed_crops(exported, prepare, crops, what="as reid prepares images")


def _picture(crop: Crop, contract: Contract) -> Image.Image:
    picture = Image.fromarray(crop)
    return picture if contract.channels == 3 else picture.convert("L")


def _write_repository(
    folder: Path,
    plain: "ModelProto",
    contract: Contract,
    threshold: Threshold | None,
    *,
    wanted: Wanted,
    crops: tuple[Split, Split] | None,
) -> tuple[list[Cost], dict[str, Any]]:
    """Writes a model repository whose model takes pixels of any size; see `_write`."""
    known = thresholds_in(plain, folder)
    content = write_self_contained(folder, plain, contract, max_batch_size=wanted.batch_size, thresholds=known)
    (folder / RECIPE).write_text(README, encoding="utf-8")
    record: dict[str, Any] = {"read": [], "input": asdict(PORT)}
    if not crops:
        return [], record
    reference = _reference(contract, plain.SerializeToString(), crops)

    def pixels(crop: Crop) -> Crop:
        return np.asarray(_picture(crop, contract)).reshape(*crop.shape[:2], contract.channels)

    found = embed_crops(content, pixels, crops, what="as bundled")
    return [cost("as bundled", reference, found)], record


def _origin(model: Path, contract: Contract, threshold: Threshold | None) -> dict[str, Any]:
    return {
        "model": model.name,
        "model_sha256": file_sha256(model),
        "contract": asdict(contract),
        "threshold": asdict(threshold) if threshold else None,
    }


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}


def _outcome(output: Path, costs: Sequence[Cost], threshold: Threshold | None, wanted: Wanted) -> Outcome:
    lines = table(costs) if costs else ["not checked: --check QUERY GALLERY, or -e SPEC, measures it on crops"]
    if wanted.oversize > 1:
        lines += smaller_is_closer(costs)
    if threshold:
        lines.append(f"threshold: cosine {threshold.cosine:.4f} ({threshold.name})")
    elif wanted.program != TRITON:
        lines.append("the model's file states no thresholds: the tracker keeps its own value")
    metrics = {"worst_cosine": costs[0].worst_cosine, "mean_cosine": costs[0].mean_cosine} if costs else {}
    if costs and (change := costs[0].mAP_change) is not None:
        metrics["mAP_change"] = change
    return Outcome(metrics=metrics, lines=[*lines, f"bundle: {output} (its README.md has the commands)"])
