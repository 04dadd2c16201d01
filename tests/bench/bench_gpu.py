"""`make bench-gpu`: training, embedding and re-ranking at Market-1501's size on one GPU.

    python -m tests.bench.bench_gpu               20 epochs, some 2,000 steps, and 6 with each switch off
    python -m tests.bench.bench_gpu --epochs 120  the whole recipe in its two precisions

Draws 751 persons once, trains ResNet-50 on them with `reid train`, batch 128, as a user would, compiled as a training
of 120 epochs is, and reads history.json. bench-gpu.json keeps what was measured after each measurement: what is in it
is not measured again but with --again. Where a command may run for 600 s only, on an H100, a command a line:

    --rows data products retrieval
    --rows chosen embedding
    --rows fp32
    --rows no-compile no-bf16 no-channels-last
    --rows no-fused-optimizer cpu-augmentation
    --rows no-cudnn-benchmark cudnn-deterministic cudnn-repeatable

On an H100 the first took 1.5 minutes, the second with --epochs 8 2.5 minutes; the others, reckoned, some 6, 6, 4 and 6.
`embedding` needs the checkpoint of `chosen` in the same scratch folder; where the drawn images are not in it, they are
drawn again.
"""
# ruff: noqa: T201

import argparse
import json
import sys
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.bench.__main__ import leave, machine, table
from tests.bench.gpu_measure import LONG, SHORT, SPEC, Scratch
from tests.bench.gpu_rows import (
    Facts,
    beside_fp32,
    embedding_rows,
    loss_curve,
    product_rows,
    retrieval_rows,
    training_row,
    whole_rows,
)
from tests.bench.gpu_task import SETTLING
from tests.bench.picture import draw_curves
from tests.bench.rows import ROOT, Row, row

NAMES = ("data", "products", "retrieval", *LONG, *SHORT, "embedding")


def main(arguments: Sequence[str] | None = None, *, spec: str = SPEC, gpu: str | None = None) -> int:
    """Measures, writes after each measurement, prints; 1 where one failed, which does not keep the others back; 2
    without a GPU. spec: its text; gpu: whose the figures are, None: of the first GPU here, which has to be there.
    """
    options = _options(arguments)
    number = "0"
    if gpu is None:
        import torch

        if not torch.cuda.is_available():
            print("error: make bench-gpu needs an NVIDIA GPU, and torch sees none on this machine", file=sys.stderr)
            return 2
        gpu, number = torch.cuda.get_device_name(0), f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    about = machine() | {"gpu": gpu}
    about["what"] = f"{gpu}; {about['what']}"
    kept = _kept(options.folder / "bench-gpu.json")
    if kept and kept["machine"]["gpu"] != gpu:
        before = f"{options.folder / 'bench-gpu.json'}: figures of {kept['machine']['gpu']}, and this is {gpu}"
        print(f"error: {before}\n  want: another --folder", file=sys.stderr)
        return 2
    facts: Facts = kept["facts"] if kept else {}
    scratch = Scratch(options.scratch, spec, number)
    failed = 0
    for name in options.rows:
        epochs = {**dict.fromkeys(LONG, options.epochs), **dict.fromkeys(SHORT, options.part)}.get(name)
        if not options.again and _is_done(facts.get(name), epochs):
            print(f"{name}: measured {facts[name]['time']}, kept", file=sys.stderr)
            continue
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        began = time.monotonic()
        try:
            found = scratch.measure(name, epochs)
            _rows(name, facts | {name: found})  # what no row can be made of failed, too
        except Exception as error:
            traceback.print_exc()
            found, failed = {"failed": f"{type(error).__name__}: {error}"}, 1
        facts[name] = found | {"time": datetime.now(UTC).isoformat(timespec="seconds")}
        print(f"  {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        _leave(options.folder, facts, about)
    print(table(all_rows(facts), about))
    print(f"\n{options.folder / 'bench-gpu'}.txt, .json, .png")
    return failed


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=f"of {', '.join(NAMES)}"
    )
    parser.add_argument("--again", action="store_true", help="measure anew what is in bench-gpu.json already")
    parser.add_argument("--epochs", type=int, default=20, help="of the run and of its fp32 twin (default 20)")
    parser.add_argument("--part", type=int, default=6, help="epochs with a switch off (default 6)")
    parser.add_argument("--folder", type=Path, default=ROOT / "results" / "bench", help="of the results")
    parser.add_argument("--scratch", type=Path, help="of drawn images and checkpoints (default FOLDER/gpu)")
    options = parser.parse_args(arguments)
    if min(options.epochs, options.part) <= SETTLING:
        parser.error(f"--epochs, --part: want more than {SETTLING}, as the first {SETTLING} only warm up")
    options.folder = options.folder.resolve()
    options.scratch = (options.scratch or options.folder / "gpu").resolve()
    return options


def _kept(file: Path) -> dict[str, Any] | None:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def _is_done(fact: Facts | None, epochs: int | None) -> bool:
    return fact is not None and "failed" not in fact and fact.get("epochs") == epochs


def all_rows(facts: Facts) -> list[Row]:
    """The table's rows of what was measured; one that says why of what failed."""
    rows = []
    for name in NAMES:
        if name in facts:
            why = facts[name].get("failed")
            part = "training" if name in LONG | SHORT else name
            rows += [row(part, name, None, "", note=f"failed: {why}")] if why else _rows(name, facts)
    return rows


def _rows(name: str, facts: Facts) -> list[Row]:
    fact = facts[name]
    if name in LONG | SHORT:
        rows = [training_row((LONG | SHORT)[name][0], fact, facts)]
        if name == "chosen":
            rows += whole_rows(fact)
        if name == "fp32" and _comparable(facts):
            rows += beside_fp32(facts["chosen"], fact)
        return rows
    if name == "data":
        counts = ", ".join(f"{count:,} {split}" for split, count in fact["images"].items())
        return [row("data", "drawing and decoding", fact["seconds"], "s", note=counts)]
    ways = {"products": product_rows, "retrieval": retrieval_rows, "embedding": embedding_rows}
    return ways[name](fact)


def _comparable(facts: Facts) -> bool:
    """Whether the training as chosen and its fp32 twin are there, of equally many epochs."""
    return all(name in facts and _is_done(facts[name], facts["chosen"].get("epochs")) for name in LONG)


def _leave(folder: Path, facts: Facts, about: dict[str, Any]) -> None:
    """bench-gpu.json, .txt and .png; and the loss beside fp32's as bench-gpu-loss.png, where both are there."""
    loss = loss_curve(facts["chosen"], facts["fp32"]) if _comparable(facts) else None
    leave(folder, "bench-gpu", all_rows(facts), about, loss=loss, facts=facts)
    if loss:
        draw_curves(loss, folder / "bench-gpu-loss.png", title=f"mean loss of each epoch; {about['what']}")


if __name__ == "__main__":
    sys.exit(main())
