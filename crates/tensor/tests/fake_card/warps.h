// What the lanes of a warp do together, in place of the assembly of kernels/mma.cuh: they show each other their values,
// with a barrier of the warp before and after. Layouts are those of the PTX ISA, seen from the whole matrices.
#pragma once

#include "threads.h"
#include <bit>
#include <cstdint>

static inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
static inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }

namespace warps {
struct Shown { unsigned words[6]; const unsigned short* at; };
static Shown shown[threads::MOST];

// Shows a value and calls f with what the 32 lanes show.
template <typename F> inline void together(const Shown& mine, const F& f) {
    shown[threadIdx.x] = mine;
    threads::warp_barrier();
    f(&shown[threadIdx.x / threads::WARP * threads::WARP]);
    threads::warp_barrier();
}
inline void check_address(const void* at) {
    if ((uintptr_t)at % 16 == 0) return;
    std::fprintf(stderr, "fake card: an address is no multiple of 16 bytes\n");
    std::abort();
}

template <typename T> inline T load_16(const void* at) {
    static_assert(sizeof(T) == 16);
    check_address(at);
    return *(const T*)at;
}
// What is fetched into a cache must be there.
inline void touch(const void* at) { (void)*(const volatile unsigned char*)at; }

inline void load(unsigned* r, const unsigned short* row, bool transposed) {
    check_address(row);
    together({{}, row}, [&](const Shown* lanes) {
        const int i = threadIdx.x % 32 / 4, j = 2 * (threadIdx.x % 4);
        for (int m = 0; m < 4; m++) {
            auto element = [&](int i, int j) { return (unsigned)lanes[8 * m + (transposed ? j : i)].at[transposed ? i : j]; };
            r[m] = element(i, j) | element(i, j + 1) << 16;
        }
    });
}

// Copies that a thread has begun. Their targets are NaN until they are finished.
struct Copy { void* to; const void* from; };
static std::vector<Copy> begun[threads::MOST];
}  // namespace warps

[[maybe_unused]] static float shuffle_xor(float x, int mask) {
    float other = 0;
    warps::together({{__float_as_uint(x)}, nullptr}, [&](const warps::Shown* lanes) {
        other = __uint_as_float(lanes[threadIdx.x % 32 ^ mask].words[0]);
    });
    return other;
}
[[maybe_unused]] static void mma_bf16(float* c, const unsigned* a, unsigned b0, unsigned b1) {
    warps::together({{a[0], a[1], a[2], a[3], b0, b1}, nullptr}, [&](const warps::Shown* lanes) {
        auto half = [](unsigned word, int which) { return __uint_as_float(which ? word & 0xffff0000u : word << 16); };
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        for (int e = 0; e < 4; e++)
            for (int k = 0; k < 16; k++) {
                const int row = g + e / 2 * 8, column = 2 * t + e % 2;
                const unsigned left = lanes[row % 8 * 4 + k % 8 / 2].words[k / 8 * 2 + row / 8];
                const unsigned right = lanes[column * 4 + k % 8 / 2].words[4 + k / 8];
                c[e] += half(left, k % 2) * half(right, k % 2);
            }
    });
}
[[maybe_unused]] static void load_matrices(unsigned* r, const unsigned short* row) { warps::load(r, row, false); }
[[maybe_unused]] static void load_transposed(unsigned* r, const unsigned short* row) { warps::load(r, row, true); }
[[maybe_unused]] static void copy_async(unsigned short* to, const unsigned short* from, bool inside) {
    warps::check_address(to), warps::check_address(from);
    std::memset(to, 0xff, 16);
    warps::begun[threadIdx.x].push_back({to, inside ? from : nullptr});
}
[[maybe_unused]] static void finish_copies() {
    for (auto [to, from] : warps::begun[threadIdx.x]) from ? std::memcpy(to, from, 16) : std::memset(to, 0, 16);
    warps::begun[threadIdx.x].clear();
}
