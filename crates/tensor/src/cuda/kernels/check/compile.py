"""Compiles the kernels, all in one module for each type of activations, for the cards Herd is meant for, without a card:
NVRTC comes from PyPI (nvidia-cuda-nvrtc).

    pip install nvidia-cuda-nvrtc && python3 compile.py [FOLDER]

The source is put together as `compile.rs` does. With a folder the machine code is kept there, for `cuobjdump -res-usage`. What
does not compile is told with NVRTC's own words; exit code 1. So is a kernel that `stream.rs` lets begin before the one in front
of it has ended, and whose code for an sm_90 does not wait for that, or writes before it does."""

import ctypes
import glob
import importlib.util
import re
import sys
from pathlib import Path

ARCHITECTURES = ["sm_80", "sm_90", "sm_100"]
KERNELS = Path(__file__).parent.parent


def sources():
    """The files in the order of `compile.rs`, which has them all."""
    names = re.findall(r'include_str!\("kernels/([^"]+)"\)', (KERNELS.parent / "compile.rs").read_text())
    missing = {path.name for path in KERNELS.glob("*.cu*")} - set(names)
    if missing or not names:
        sys.exit(f"compile.rs does not include {', '.join(sorted(missing))}")
    return [KERNELS / name for name in names]


def dependent():
    """The kernels of `DEPENDENT` in `stream.rs`."""
    text = (KERNELS.parent / "stream.rs").read_text()
    return re.findall(r'"(\w+)"', re.search(r"pub const DEPENDENT: [^=]*= \[(.*?)\];", text, re.S)[1])


def library():
    roots = importlib.util.find_spec("nvidia").submodule_search_locations
    found = [p for root in roots for p in sorted(glob.glob(f"{root}/*/lib/libnvrtc.so.*"))]
    if not found:
        sys.exit("libnvrtc.so not found: pip install nvidia-cuda-nvrtc")
    return ctypes.CDLL(found[0])


def compile(nvrtc, name, source, architecture, kind="CUBIN"):
    """The machine code, or the PTX, and the log if that failed."""
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
        return b"", log.value.decode()
    assert call(f"nvrtcGet{kind}Size", program, ctypes.byref(size)) == 0
    code = ctypes.create_string_buffer(size.value)
    assert call(f"nvrtcGet{kind}", program, code) == 0
    return code.raw, ""


def complaints(kernels):
    """What is wrong with the kernels that may begin early, of their PTX by name."""
    for name in [name for name in dependent() if name in kernels]:
        before, wait, _ = kernels[name].partition("griddepcontrol.wait")
        if not wait or re.search(r"\b(st|atom|red)\.", before):
            yield f"{name} {'writes before it waits' if wait else 'does not wait'} for the kernel before"
        if "griddepcontrol.launch_dependents" not in before:
            yield f"{name} does not let the next kernel begin before it waits"


def main():
    nvrtc = library()
    text = "\n".join(f'#line 1 "{path.name}"\n{path.read_text()}' for path in sources())
    failed, known = False, set()
    for act in ["F32", "BF16"]:
        source = f"#define ACT_{act}\n{text}".encode()
        for architecture in ARCHITECTURES:
            code, log = compile(nvrtc, "herd.cu", source, architecture)
            print(f"{act:<5} {architecture:<7} {len(code):>8} bytes" if code else f"{act} {architecture} FAILED\n{log}")
            if code and len(sys.argv) > 1:
                Path(sys.argv[1], f"{act}-{architecture}.cubin").write_bytes(code)
            failed |= not code
        ptx, log = compile(nvrtc, "herd.cu", source, "compute_90", "PTX")
        kernels = dict(re.findall(r"\.entry (\w+)\(.*?\n\{(.*?)\n\}", ptx.decode(), re.S))
        known |= set(kernels)
        wrong = list(complaints(kernels))
        print(f"{act:<5} kernels that begin early: {', '.join(wrong) or 'as they should be'}")
        failed |= bool(wrong)
    if unknown := set(dependent()) - known:
        sys.exit(f"stream.rs lists {', '.join(sorted(unknown))}, which are no kernels")
    sys.exit(failed)


main()
