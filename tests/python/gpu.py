"""What tests on a GPU need: the device and the libraries, or why there are none."""
import importlib
import os
import unittest
import warnings

os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")  # virtual ranks wait for one another; read at CUDA's start
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import epgraph  # noqa: E402


def _module(name):
    try:
        with warnings.catch_warnings():     # theirs are no errors of ours
            warnings.simplefilter("ignore")
            return importlib.import_module(name), ""
    except Exception as error:
        return None, f"{name} cannot be imported: {error}"


def _reason():
    try:
        epgraph.Device("cuda").close()
        return ""
    except epgraph.Error as error:
        return error.message


#: Why there is no GPU; "" if there is one.
no_gpu = _reason()
torch, no_torch = (None, no_gpu) if no_gpu else _module("torch")
cupy, no_cupy = (None, no_gpu) if no_gpu else _module("cupy")

with_gpu = unittest.skipIf(no_gpu, no_gpu)
with_torch = unittest.skipIf(no_torch, no_torch)
with_cupy = unittest.skipIf(no_cupy, no_cupy)
