"""Compiles the kernels, all in one module for each type of activations, for the cards Herd is meant for, without a card:
NVRTC comes from PyPI (nvidia-cuda-nvrtc).

    pip install nvidia-cuda-nvrtc && python3 compile.py

What does not compile is told with NVRTC's own words; exit code 1."""

import ctypes
import glob
import importlib.util
import sys
from pathlib import Path

ARCHITECTURES = ["sm_80", "sm_90", "sm_100"]
KERNELS = Path(__file__).parent.parent


def library():
    roots = importlib.util.find_spec("nvidia").submodule_search_locations
    found = [p for root in roots for p in sorted(glob.glob(f"{root}/*/lib/libnvrtc.so.*"))]
    if not found:
        sys.exit("libnvrtc.so not found: pip install nvidia-cuda-nvrtc")
    return ctypes.CDLL(found[0])


def compile(nvrtc, name, source, architecture):
    """The machine code's size, and the log if that failed."""
    program = ctypes.c_void_p()
    call = lambda f, *a: getattr(nvrtc, f)(*a)
    assert call("nvrtcCreateProgram", ctypes.byref(program), source, name.encode(), 0, None, None) == 0
    options = [f"--gpu-architecture={architecture}".encode(), b"--std=c++17", b"-default-device"]
    status = call("nvrtcCompileProgram", program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    if status != 0:
        call("nvrtcGetProgramLogSize", program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        call("nvrtcGetProgramLog", program, log)
        return 0, log.value.decode()
    assert call("nvrtcGetCUBINSize", program, ctypes.byref(size)) == 0
    return size.value, ""


def main():
    nvrtc = library()
    common = (KERNELS / "common.cuh").read_text()
    sources = sorted(KERNELS.glob("*.cu"))
    failed = not sources
    for act in ["float", "bf16"]:
        parts = [f"#define ACT {act}\n{common}"]
        parts += [f"#line 1 \"{path.name}\"\n{path.read_text()}" for path in sources]
        for architecture in ARCHITECTURES:
            size, log = compile(nvrtc, "herd.cu", "\n".join(parts).encode(), architecture)
            print(f"{act:<6} {architecture:<7} {size:>7} bytes" if size else f"{act} {architecture} FAILED\n{log}")
            failed |= size == 0
    sys.exit(failed)


main()
