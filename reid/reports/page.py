"""A report's template filled with its values: one HTML file that refers to nothing outside itself.

All pages extend templates/base.html.j2, share templates/style.css and take their parts from templates/parts.html.j2.
They work in the iframe in which Kubeflow and MLflow show them (srcdoc, sandbox="allow-scripts"). Every value is
escaped; a policy in the page's head forbids it to load anything, and to run any script but the one of
templates/tooltip.js, which it names by its hash: a text that slipped through unescaped could still do nothing.

Values that go into the templates are dataclasses and texts; only what this package itself draws (charts) is markup.
"""

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from reid.console.plain import printable

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).with_name("templates")


def render(template: str, **values: object) -> str:
    """The page that templates/TEMPLATE.html.j2 makes of these values; the same values give the same text.

    A file name that is not valid UTF-8 is shown with \\udcXX for each byte that is wrong, for the page is UTF-8; what
    turns the direction of writing is shown likewise.
    """
    page = environment().get_template(f"{template}.html.j2").render(values)
    return printable(page)


@cache
def environment() -> "Environment":
    """Jinja2 with this package's templates; a value that a template names but is not given is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    script = (TEMPLATES / "tooltip.js").read_text(encoding="utf-8")
    made.globals |= {
        "style": (TEMPLATES / "style.css").read_text(encoding="utf-8"),
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    }
    return made
