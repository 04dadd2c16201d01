"""README.md, docs/ and k8s/README.md as the tests read them: prose, blocks, commands, words in code marks, anchors."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README, CONTRIBUTING = ROOT / "README.md", ROOT / "docs" / "CONTRIBUTING.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
FILES = [README, *PAGES, ROOT / "k8s" / "README.md"]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def prose(file: Path) -> str:
    """The file without its blocks."""
    return BLOCK.sub("", file.read_text(encoding="utf-8"))


def blocks(file: Path, language: str) -> list[str]:
    """The blocks of a language; "" for those that name none."""
    return [text for kind, text in BLOCK.findall(file.read_text(encoding="utf-8")) if kind == language]


def commands(text: str) -> list[str]:
    """The lines of the shell blocks, continued ones joined; a command may stand in a comment after "or:"."""
    found: list[str] = []
    for _, block in [match for match in BLOCK.findall(text) if match[0] == "bash"]:
        for line in block.replace("\\\n", " ").splitlines():
            command, _, alternative = line.partition("# or:")
            found += [part.strip() for part in (command.partition(" # ")[0], alternative) if part.strip()]
    return found


def inline(file: Path) -> list[str]:
    """What stands in code marks, outside of blocks."""
    return sorted({" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(file))})


def anchors(file: Path) -> set[str]:
    """The headings of a page as both GitHub and the site name them in a link."""
    titles = re.findall("^#+ (.*)", prose(file), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}
