"""What reid uses of NVIDIA's `tensorrt`, computing with ONNX Runtime over the memory of `driver.c`.

Names and signatures are those of tensorrt 11.4's bindings. An "engine" is the ONNX it was built from, and its profile;
it shows that reid drives the interface rightly, and nothing of what TensorRT makes of a network.
"""

import ctypes
import enum
import json

import numpy as np

from reid.deploy import gpu

__version__ = "11.0.of-the-tests"
SHIFT = 1 << 62


class ILogger:
    Severity = enum.Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])

    def log(self, level, message):
        raise NotImplementedError


NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 1})
MemoryPoolType = enum.Enum("MemoryPoolType", ["WORKSPACE"])
BuilderFlag = enum.Enum("BuilderFlag", ["TF32"])


class Builder:
    def __init__(self, log):
        assert isinstance(log, ILogger)

    def create_network(self, flags):
        assert flags == 1 << int(NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return []

    def create_builder_config(self):
        return Config()

    def create_optimization_profile(self):
        return Shapes()

    def build_serialized_network(self, network, config):
        config._timings = config._timings or b"measured"
        return json.dumps(config.shapes.sizes).encode() + b"\n" + network[0]


class OnnxParser:
    num_errors = 0

    def __init__(self, network, log):
        self.network = network

    def parse(self, content):
        self.network.append(content)
        return True


class Shapes:
    def set_shape(self, name, least, best, most):
        self.sizes = {"name": name, "shapes": [least, best, most]}


class TimingCache:
    def __init__(self, content):
        self.content = content

    def serialize(self):
        return self.content


class Config:
    _timings = None

    def set_memory_pool_limit(self, pool, size):
        assert pool is MemoryPoolType.WORKSPACE
        assert size % (1 << 20) == 0

    def add_optimization_profile(self, shapes):
        self.shapes = shapes
        return 0

    def get_flag(self, flag):
        return flag is BuilderFlag.TF32

    def create_timing_cache(self, content):
        return TimingCache(content)

    def set_timing_cache(self, cache, ignore_mismatch):
        if cache.content == b"of another GPU":
            return False
        self._timings = cache.content
        return True

    def get_timing_cache(self):
        return TimingCache(self._timings)


class Runtime:
    def __init__(self, log):
        assert isinstance(log, ILogger)
        self.log = log

    def deserialize_cuda_engine(self, content):
        head, _, network = content.partition(b"\n")
        try:
            return Engine(json.loads(head), network)
        except ValueError:
            self.log.log(
                ILogger.Severity.ERROR, "IRuntime::deserializeCudaEngine: Error Code 1: the magic tag is not there"
            )
            return None


class Engine:
    def __init__(self, sizes, network):
        import onnxruntime

        self.sizes = sizes
        self.session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
        self.ports = {port.name: port.shape for port in (*self.session.get_inputs(), *self.session.get_outputs())}
        self.num_io_tensors = len(self.ports)

    def get_tensor_name(self, index):
        return list(self.ports)[index]

    def get_tensor_shape(self, name):
        return [-1 if isinstance(axis, str) else axis for axis in self.ports[name]]

    def get_tensor_profile_shape(self, name, profile_index):
        assert (name, profile_index) == (self.sizes["name"], 0)
        return self.sizes["shapes"]

    def create_execution_context(self):
        return Context(self)


class Context:
    def __init__(self, engine):
        self.engine, self.addresses, self.shape = engine, {}, None

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def set_input_shape(self, name, shape):
        least, _, most = (sizes[0] for sizes in self.engine.sizes["shapes"])
        if not least <= shape[0] <= most:
            return False
        self.shape = shape
        return True

    def execute_async_v3(self, stream_handle):
        gpu.open_driver().cuStreamSynchronize(ctypes.c_void_p(stream_handle))  # what waits in the stream comes first
        (output,) = self.engine.session.run(None, {"input": memory(self.addresses["input"], self.shape).copy()})
        memory(self.addresses["fc_pred"], output.shape)[:] = output
        return True


def memory(address, shape):
    """float32 values at an address of the "GPU"."""
    count = int(np.prod(shape))
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address - SHIFT)).reshape(shape)
