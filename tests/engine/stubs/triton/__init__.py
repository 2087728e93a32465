"""In place of Triton (1 GB): SGLang's own stub of it, which it makes for macOS, installed on Linux by telling it that this is one."""

import importlib.util
import os
import platform
import sys

import torch


def _install():
    path = next(p for d in sys.path if os.path.exists(p := os.path.join(d, "sglang", "_platform_stubs.py")))
    spec = importlib.util.spec_from_file_location("sglang_platform_stubs_alone", path)
    stubs = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = stubs
    spec.loader.exec_module(stubs)
    stubs._patch_non_blocking = lambda: None
    real = (sys.platform, platform.machine, importlib.util.find_spec, torch.backends.mps.is_available)
    sys.platform, platform.machine, torch.backends.mps.is_available = "darwin", lambda: "arm64", lambda: True
    importlib.util.find_spec = lambda name, *more: None if name == "triton" else real[2](name, *more)
    sys.modules.pop("triton", None)
    try:
        stubs.install_platform_stubs()
    finally:
        sys.platform, platform.machine, importlib.util.find_spec, torch.backends.mps.is_available = real


_install()
