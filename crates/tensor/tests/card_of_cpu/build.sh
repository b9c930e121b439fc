#!/usr/bin/env bash
# Builds a card made of the processor, for tests only: libraries with the names of NVIDIA's that run Herd's own kernels,
# compiled from the same sources, in main memory.
#
#     build.sh FOLDER && HERD_CUDA_LIBS=FOLDER cargo test --release -p herd-tensor --test card -- --ignored
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
kernels=$here/../../src/cuda/kernels
out=$1
mkdir -p "$out"
# The sources in the order of compile.rs, and an entry for each kernel: a library that lacks one cannot be asked for it.
mapfile -t files < <(grep -oP 'include_str!\("kernels/\K[^"]+' "$kernels/../compile.rs")
for file in "${files[@]}"; do printf '#include "%s"\n' "$kernels/$file"; done >"$out/sources.inc"
for real in F32 BF16; do
    (cd "$kernels" && cat "${files[@]}") | { [[ $real == BF16 ]] && cat || sed '/^#ifdef REAL_BF16/,/^#endif/d'; } |
        grep -oP '^(KERNEL|FORWARD|BACKWARD)\(\K[a-z]\w+' | grep -vx name |
        sed "s/.*/{\"&\", entry<$real::&>()},/" >"$out/entries_$real.inc"
done
g++ -std=c++20 -O2 -U_FORTIFY_SOURCE -fPIC -shared -I"$out" -I"$kernels/check" "$here/card.cpp" -o "$out/libcuda.so.1"
for name in libnvrtc.so.13 libcublasLt.so.13; do ln -sf libcuda.so.1 "$out/$name"; done
