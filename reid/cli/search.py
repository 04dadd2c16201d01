"""The command `reid search`: the gallery images that are most similar to each query.

reid search query.jpg --model model.onnx --gallery crops --sheet hits.png
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from reid.cli.model_option import add_model, open_chosen, rate_of_errors, without_overrides
from reid.console.plain import printable
from reid.errors import ArtifactError, SpecError
from reid.files.paths import given_path

if TYPE_CHECKING:
    from reid.stages.search import Searched

SHOWN = 5
"""Largest number of queries whose hits are printed."""
SHEET_QUERIES, SHEET_HITS = 20, 20
"""Largest numbers of rows and columns of the sheet."""
PICTURES = (".png", ".svg", ".pdf")


def add_search(parser: argparse.ArgumentParser) -> None:
    """Adds the description, the arguments and the action to the parser."""
    parser.description = (
        "search: finds the gallery images that are most similar to each query (cosine of the embeddings), and says "
        "which of them are the same person by the model's threshold. The search is exact."
    )
    query_help = "image files, folders of them, or one file of embeddings (.json, .npz, .parquet)"
    parser.add_argument("queries", nargs="+", metavar="QUERY", help=query_help)
    add_model(parser)
    gallery_help = "folder of images of any names, or embeddings of the same model: a file, shards, a folder"
    parser.add_argument("--gallery", type=given_path, required=True, metavar="PLACE", help=gallery_help)
    parser.add_argument("--top-k", type=_count, default=10, metavar="K", help="hits of each query (default 10)")
    parser.add_argument("--output", type=given_path, metavar="FILE", help="write the hits: .json, .csv or .parquet")
    sheet_help = f"draw the first {SHEET_QUERIES} queries with their hits: {', '.join(PICTURES)}"
    parser.add_argument("--sheet", type=given_path, metavar="FILE", help=sheet_help)
    rate_help = "share of the pairs of different persons that may be taken for one person (default 0.001 if measured)"
    parser.add_argument("--false-match-rate", type=rate_of_errors, metavar="RATE", help=rate_help)
    save_help = "keep the embeddings of a folder of images (.npz, .parquet), to search it again as --gallery FILE"
    parser.add_argument("--save-gallery", type=given_path, metavar="FILE", help=save_help)
    same_help = "accept a gallery that another file of the same network embedded, e.g. the ONNX file of this checkpoint"
    parser.add_argument("--same-network", action="store_true", help=same_help)
    parser.set_defaults(action=_search)


def _count(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text}: want a number from 1")
    return int(text)


def _search(options: argparse.Namespace) -> None:
    words, options.overrides = without_overrides(options.queries)
    if not words:
        raise SpecError("no query: want image files, a folder, or a file of embeddings")
    from reid.stages.search import Model, search_gallery
    from reid.stages.search_results import require_results_file, write_results

    _require_own_files(options, [Path(word).expanduser() for word in words])
    if options.output:
        require_results_file(options.output)
    if options.sheet:
        _require_picture(options.sheet)
    searched = search_gallery(
        Model(lambda: open_chosen(options, images=0), batch_size=_batch_size()),
        [given_path(word) for word in words],
        options.gallery,
        top_k=options.top_k,
        false_match_rate=options.false_match_rate,
        save_gallery=options.save_gallery,
        same_network=options.same_network,
    )
    if options.output:
        write_results(options.output, searched)
    if options.sheet:
        _draw(options.sheet, searched)
    print(printable(_in_words(searched, options.output)))


def _require_own_files(options: argparse.Namespace, queries: list[Path]) -> None:
    """Raises SpecError if a file that is written is also read, or is written twice: its content would be lost."""
    taken = {path.resolve(): "a query" for path in queries} | {options.gallery.resolve(): "--gallery"}
    for name in ("save_gallery", "output", "sheet"):
        if path := getattr(options, name):
            option = f"--{name.replace('_', '-')}"
            if other := taken.get(path.resolve()):
                raise SpecError(f"{option} {path}: the same file as {other}\n  want: a file of its own")
            taken[path.resolve()] = option


def _require_picture(path: Path) -> None:
    from reid.files.writing import require_writable

    if path.suffix.lower() not in PICTURES:
        raise ArtifactError(f"{path}: not an ending of a picture\n  want: one of {', '.join(PICTURES)}")
    require_writable(path)


def _batch_size() -> int:
    from reid.spec import Experiment

    return Experiment().dataset.val_batch_size


def _draw(path: Path, searched: "Searched") -> None:
    from reid.files.writing import replacing
    from reid.reports.search_sheet import SheetHit, SheetRow, search_sheet

    rows = [
        SheetRow(query, tuple(SheetHit(hit.path, hit.similarity, hit.same_person) for hit in hits[:SHEET_HITS]))
        for query, hits in list(zip(searched.queries, searched.hits, strict=True))[:SHEET_QUERIES]
    ]
    shown = f"{len(rows)} of " if len(rows) < len(searched.queries) else ""
    title = f"{shown}{_counted(searched)} in a gallery of {_gallery(searched)}"
    note = f"Under an image: cosine of the embeddings. {_explained(searched)}"
    with replacing(path) as partial:
        search_sheet(rows, title=title, note=note).savefig(partial, format=path.suffix[1:].lower(), dpi=150)


def _counted(searched: "Searched") -> str:
    return "1 query" if len(searched.queries) == 1 else f"{len(searched.queries):,} queries"


def _gallery(searched: "Searched") -> str:
    return "1 image" if searched.gallery_rows == 1 else f"{searched.gallery_rows:,} images"


def _in_words(searched: "Searched", output: Path | None) -> str:
    lines = []
    for query, hits in list(zip(searched.queries, searched.hits, strict=True))[:SHOWN]:
        lines.append(query)
        said = {True: "same person  ", False: " " * 13, None: ""}
        lines += [f"  {hit.rank:>3}  {hit.similarity:7.4f}  {said[hit.same_person]}{hit.path}" for hit in hits]
    if (more := len(searched.queries) - SHOWN) > 0:
        lines.append(f"and {more:,} more queries{f', in {output}' if output else ': --output FILE writes all hits'}")
    lines += ["", _explained(searched)]
    lines.append(f"{_counted(searched)} in a gallery of {_gallery(searched)}")
    return "\n".join(lines)


def _explained(searched: "Searched") -> str:
    """What the threshold means."""
    row, measured = searched.threshold, searched.measured
    if row is None or measured is None:
        return "No threshold is known, so nothing says which hits are the same person."
    share = f"At most {100 * row.rate:g} %" if row.rate is not None else f"{100 * row.false_match_rate:.2f} %"
    return (
        f"Same person: cosine of {row.cosine:.4f} or more. {share} of the pairs of different persons reach that, and "
        f"{100 * row.true_match_rate:.1f} % of the pairs of one person (measured on {measured.measured_on})."
    )
