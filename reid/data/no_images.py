"""What a folder without images has instead of them, and what to do about it."""

from collections import Counter
from pathlib import PurePosixPath

from reid.console.plain import in_one_line
from reid.data.market1501 import IMAGE_ENDINGS, Listing, is_of_a_system

ENDINGS_SHOWN = 3


def found_instead(listing: Listing) -> str:
    """The rest of a sentence "no image in FOLDER": ": 751 folders, 3 .heic files; ..."; "" if the folder is empty.

    Names that begin with a dot, and files of operating systems, are not counted.
    """
    strays = [name for name in listing.strays if not name.startswith(".") and not is_of_a_system(name)]
    folders = [name for name in strays if name.endswith("/")]
    files = [name for name in strays if not name.endswith("/")]
    endings = Counter(suffix for name in files if (suffix := PurePosixPath(name).suffix.lower()))
    shown = endings.most_common(ENDINGS_SHOWN)
    others = len(files) - sum(count for _, count in shown)
    found = [f"{_counted(len(folders), 'folder')} (first: {in_one_line(folders[0])})"] if folders else []
    found += [_counted(count, f"{in_one_line(ending)} file") for ending, count in shown]
    found += [_counted(others, "other file")] if others else []
    if not found:
        return ""
    advice = []
    if folders:
        advice.append("folders are not searched; if each is a person, set dataset.layout=folders and dataset.root")
    if files:
        advice.append(f"an image ends in {', '.join(IMAGE_ENDINGS)}; convert others")
    return f": {', '.join(found)}; {'; '.join(advice)}"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
