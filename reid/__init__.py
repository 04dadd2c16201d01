"""Person re-identification: the library behind the command `reid` and the stages of the pipeline.

Its front door is four functions: `load_spec`, `open_model`, `embed` and `score`. Importing `reid` loads none of them;
the first use of one loads what it needs.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reid.library import embed, open_model, score
    from reid.spec import load_spec

__version__ = "0.1.0"
__all__ = ["embed", "load_spec", "open_model", "score"]

_MODULES = {"embed": "library", "load_spec": "spec", "open_model": "library", "score": "library"}
"""The functions of __all__ and the modules of `reid` that define them."""

if not TYPE_CHECKING:  # a type checker that sees __getattr__ believes that every name exists

    def __getattr__(name: str) -> object:
        """The function of __all__ with this name, imported at its first use (PEP 562)."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        function: object = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = function
        return function


def __dir__() -> list[str]:
    """The names of this module, those that are not loaded yet too."""
    return sorted({*globals(), *__all__})
