"""A stand-in for the two things that need a GPU: NVIDIA's driver (driver.c) and its TensorRT (tensorrt.py)."""
