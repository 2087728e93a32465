"""SGLang's GPU kernels, as far as a CPU needs them to import SGLang: any name is there, and any call of one raises."""

import importlib.machinery
import sys
import types

__version__ = "0.4.10"


def _kernel(name):
    def call(*_args, **_options):
        raise NotImplementedError(f"{name} needs a GPU")

    return call


class _Part(types.ModuleType):
    def __init__(self, name):
        super().__init__(name)
        self.__path__ = []
        self.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _kernel(f"{self.__name__}.{name}")


class ScalarType:
    """A type of weights."""


class _ScalarTypes:
    def __getattr__(self, name):
        return name


for _name in ("flash_attn", "kvcacheio", "scalar_type", "quantization", "utils", "speculative", "mamba", "elementwise", "common_ops"):
    globals()[_name] = sys.modules[f"sgl_kernel.{_name}"] = _Part(f"sgl_kernel.{_name}")
sys.modules["sgl_kernel.scalar_type"].scalar_types = _ScalarTypes()
sys.modules["sgl_kernel.scalar_type"].ScalarType = ScalarType


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return _kernel(f"sgl_kernel.{name}")
