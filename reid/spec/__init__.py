"""The experiment spec: its fields (`sections.py`), their facts (`fields.py`), how a spec is read (`loading.py`)."""

from reid.spec.loading import load_spec, warn_of_replaced_paths
from reid.spec.sections import Experiment

__all__ = ["Experiment", "load_spec", "warn_of_replaced_paths"]
