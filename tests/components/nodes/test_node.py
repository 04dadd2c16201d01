"""What runs on each node: two of them on loopback, as Kubeflow Trainer starts them."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.nodes.files import as_end, errors_of, outcome_of, write_end, write_request
from reid.stages.outcome import Outcome
from tests.small_market import small_market

ROOT = Path(__file__).resolve().parents[3]
