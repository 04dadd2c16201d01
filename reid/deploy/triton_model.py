"""The model inside Triton's Python backend: `reid triton` copies this file beside the exported ONNX as model.py.

It imports nothing of this project, because the server does not have it. The server's Python needs numpy and
onnxruntime.

Shapes: B images of a request, N images of all requests together, C channels, H height, W width, D embedding width.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

INPUT, OUTPUT, CONTRACT_KEY = "input", "fc_pred", "reid.contract"


class TritonPythonModel:
    """The interface that Triton's Python backend wants."""

    def initialize(self, args: dict[str, str]) -> None:
        """Opens the ONNX file, on the instance's GPU if both Triton and ONNX Runtime can use one."""
        onnx = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        wanted: list[Any] = ["CPUExecutionProvider"]
        if args["model_instance_kind"] == "GPU" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            wanted.insert(0, ("CUDAExecutionProvider", {"device_id": int(args["model_instance_device_id"])}))
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.x64quantprecision", "1")  # INT8 sums of 16 bits would overflow
        self.session = onnxruntime.InferenceSession(str(onnx), options, providers=wanted)
        promised = json.loads(args["model_config"])["parameters"][CONTRACT_KEY]["string_value"]
        found = self.session.get_modelmeta().custom_metadata_map.get(CONTRACT_KEY, "null")
        if json.loads(promised) != json.loads(found):
            raise pb_utils.TritonModelException(
                f"{onnx}: its preprocessing contract is not the one of config.pbtxt\n  found: {found}\n"
                f"  want:  {promised}; write the model repository anew with reid triton"
            )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Requests of (B, C, H, W) each -> responses of (B, D) each, from one run over all N images."""
        batches = [pb_utils.get_input_tensor_by_name(request, INPUT).as_numpy() for request in requests]
        (embeddings,) = self.session.run([OUTPUT], {INPUT: np.concatenate(batches)})  # (N, D)
        ends = np.cumsum([len(batch) for batch in batches])[:-1]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(OUTPUT, np.ascontiguousarray(part))])
            for part in np.split(embeddings, ends)
        ]
