"""Compiles the kernels for the cards Herd is meant for, without a card: NVRTC comes from PyPI (nvidia-cuda-nvrtc).

    pip install nvidia-cuda-nvrtc && python3 compile.py

The program is put together as `compile.rs` does, once for each type of activations. If it does not compile, NVRTC's own words
are told; exit code 1."""

import ctypes
import glob
import importlib.util
import re
import sys
from pathlib import Path

ARCHITECTURES = ["sm_80", "sm_90", "sm_100"]
KERNELS = Path(__file__).parent.parent


def sources():
    """The files in the order of `compile.rs`, which names them all."""
    names = re.findall(r'include_str!\("kernels/([^"]+)"\)', (KERNELS.parent / "compile.rs").read_text())
    missing = {p.name for p in KERNELS.glob("*.cu*")} - set(names)
    if missing:
        sys.exit(f"compile.rs does not name {', '.join(sorted(missing))}")
    return [KERNELS / name for name in names]


def library():
    roots = importlib.util.find_spec("nvidia").submodule_search_locations
    found = [p for root in roots for p in sorted(glob.glob(f"{root}/*/lib/libnvrtc.so.*"))]
    if not found:
        sys.exit("libnvrtc.so not found: pip install nvidia-cuda-nvrtc")
    return ctypes.CDLL(found[0])


def compile(nvrtc, source, architecture, real):
    """The machine code, and the log if that failed."""
    program = ctypes.c_void_p()
    call = lambda f, *a: getattr(nvrtc, f)(*a)
    assert call("nvrtcCreateProgram", ctypes.byref(program), source, b"herd.cu", 0, None, None) == 0
    options = [f"--gpu-architecture={architecture}".encode(), b"--std=c++17", b"-default-device", real]
    status = call("nvrtcCompileProgram", program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    if status != 0:
        call("nvrtcGetProgramLogSize", program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        call("nvrtcGetProgramLog", program, log)
        return b"", log.value.decode()
    assert call("nvrtcGetCUBINSize", program, ctypes.byref(size)) == 0
    code = ctypes.create_string_buffer(size.value)
    assert call("nvrtcGetCUBIN", program, code) == 0
    return code.raw, ""


def main():
    nvrtc = library()
    files = sources()
    source = "".join(f'#line 1 "{path.name}"\n{path.read_text()}\n' for path in files).encode()
    failed = False
    for real in ("F32", "BF16"):
        for architecture in ARCHITECTURES:
            code, log = compile(nvrtc, source, architecture, f"-DREAL_{real}".encode())
            print(f"{real:<5} {architecture:<7} {len(code):>8} bytes" if code else f"{real} {architecture} FAILED\n{log}")
            failed |= not code
    sys.exit(failed)


main()
