"""The command `reid dataset convert`."""

import argparse
from typing import get_args

from reid.console.plain import printable
from reid.errors import SpecError
from reid.files.paths import given_path


def add_convert(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `reid dataset convert`."""
    from reid.data.layouts.layout import LayoutName

    parser.add_argument("root", type=given_path, help="folder of the data set, or the file that lists its images")
    parser.add_argument("output", type=given_path, help="folder to make")
    layouts = get_args(LayoutName)
    layout_help = f"as dataset.layout: {', '.join(layouts)}"
    parser.add_argument("--layout", required=True, choices=layouts, metavar="LAYOUT", help=layout_help)
    parser.add_argument("--file-name", default="market1501", metavar="PATTERN", help="as dataset.file_name")
    parser.add_argument("--cameras", default="file_name", choices=("file_name", "none"), help="as dataset.cameras")
    parser.add_argument("--copy", action="store_true", help="copy the images; else they are hard links if possible")
    parser.set_defaults(action=_convert)


def _convert(options: argparse.Namespace) -> None:
    from reid.data.convert import convert
    from reid.data.file_names import file_names

    try:
        names = file_names(options.file_name, cameras=options.cameras)
    except ValueError as error:
        raise SpecError(f"--file-name {options.file_name}\n  want: {error}") from None
    converted = convert(options.layout, options.root, options.output, names=names, copy=options.copy)
    print(printable("\n".join([f"{options.output}:", *(f"  {line}" for line in converted.lines)])))
