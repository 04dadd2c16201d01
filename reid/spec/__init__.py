"""The experiment spec: its fields (`sections.py`), how it is read (`loading.py`), TAO's other keys (`tao.py`)."""

from reid.spec.loading import load_spec, tell_what_a_pipeline_replaces
from reid.spec.sections import Experiment

__all__ = ["Experiment", "load_spec", "tell_what_a_pipeline_replaces"]
