"""The layouts by name, and the one way to read a data set of any of them.

| layout | train and test numbered apart | person 0 | camera |
|---|---|---|---|
| market1501 | no | a distractor | in the name |
| dukemtmc, occluded_duke, veri776 | no | a person | in the name |
| msmt17 | yes | a person | in the name |
| cuhk03 | yes | a person | in the JSON |
| folders | no | a person | in the name, or unknown |
| csv | no | a person | a column, or unknown |
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reid.data.file_names import FileNames
from reid.data.layouts.csv_table import TREE as CSV_TREE
from reid.data.layouts.csv_table import find_csv
from reid.data.layouts.cuhk03 import TREE as CUHK03_TREE
from reid.data.layouts.cuhk03 import find_cuhk03
from reid.data.layouts.layout import Found, Layout, LayoutName
from reid.data.layouts.msmt17 import TREE as MSMT17_TREE
from reid.data.layouts.msmt17 import find_msmt17
from reid.data.layouts.named_files import (
    DUKEMTMC_FILES,
    MARKET1501_FILES,
    MARKET_FOLDERS,
    VERI776_FILES,
    VERI_FOLDERS,
    tree_of,
)
from reid.data.layouts.numbering import Numbered, number
from reid.data.layouts.person_folders import TREE as FOLDERS_TREE
from reid.data.layouts.person_folders import find_person_folders

LAYOUTS: dict[LayoutName, Layout] = {
    "market1501": Layout(MARKET1501_FILES, tree_of(MARKET_FOLDERS), distractors=True, reads_names=True),
    "msmt17": Layout(find_msmt17, MSMT17_TREE, apart=True),
    "cuhk03": Layout(find_cuhk03, CUHK03_TREE, apart=True),
    "dukemtmc": Layout(DUKEMTMC_FILES, tree_of(MARKET_FOLDERS), reads_names=True),
    "occluded_duke": Layout(DUKEMTMC_FILES, tree_of(MARKET_FOLDERS), reads_names=True),
    "veri776": Layout(VERI776_FILES, tree_of(VERI_FOLDERS), reads_names=True),
    "folders": Layout(find_person_folders, FOLDERS_TREE, reads_names=True),
    "csv": Layout(find_csv, CSV_TREE),
}


@dataclass(frozen=True)
class ReadSet:
    """The splits of a data set as its layout gives them; no image has been opened."""

    splits: dict[str, Found]
    """What was found, for the names and the errors; its persons and cameras are not numbered."""
    numbered: Numbered


def read_set(layout: LayoutName, root: Path, *, splits: Sequence[str], names: FileNames) -> ReadSet:
    """The listings of the splits with numbers for persons and cameras; what is wrong is in them, nothing is raised.

    root: absolute; names: as dataset.file_name and dataset.cameras say.
    """
    row = LAYOUTS[layout]
    if not os.path.lexists(root):
        found = {split: Found(root, names, error=f"no such folder: {root}; want {row.tree}") for split in splits}
    else:
        found = row.find(root, splits, names)
    return ReadSet(found, number(found, apart=row.apart, distractors=row.distractors))
