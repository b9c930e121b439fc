// Runs kernels on the processor. Blocks run one after another; the threads of a block are fibers of one thread, or, with
// REAL_THREADS, threads, so that ThreadSanitizer sees a missing barrier as a data race. Tensor cores and shuffles
// (mma.cuh) exchange their lanes' values.
//
// Included after it, in a namespace for each type of activations: the kernels' own sources.
#pragma once
#include <barrier>
#include <bit>
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <ucontext.h>
#include <vector>

struct Index { unsigned x, y, z; };
struct uint4 { unsigned x, y, z, w; };
static thread_local Index threadIdx;
static Index blockIdx, gridDim;
#define __global__
#define __device__
#define __shared__ static
#define KERNEL(name) [[maybe_unused]] static void name
#define DYNAMIC_SHARED(name) unsigned char* name = cpu::dynamic_shared
static inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
static inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }

namespace cpu {
alignas(16) static unsigned char dynamic_shared[256 << 10];
static unsigned block_threads;

#ifdef REAL_THREADS
static std::barrier<>* block_barrier;
static std::vector<std::unique_ptr<std::barrier<>>> warp_barriers;
static void sync_block() { block_barrier->arrive_and_wait(); }
static void sync_warp() { warp_barriers[threadIdx.x / 32]->arrive_and_wait(); }

static void run_block(unsigned threads, const std::function<void()>& kernel) {
    std::barrier<> barrier(threads);
    block_barrier = &barrier;
    warp_barriers.clear();
    for (unsigned w = 0; w < threads; w += 32) warp_barriers.push_back(std::make_unique<std::barrier<>>(32));
    std::vector<std::thread> list;
    for (unsigned t = 0; t < threads; t++) list.emplace_back([&kernel, t] { threadIdx = {t, 0, 0}; kernel(); });
    for (auto& thread : list) thread.join();
}
#else
struct Barrier { unsigned arrived = 0, turn = 0; };
struct Fiber { ucontext_t context; jmp_buf place; std::unique_ptr<char[]> stack; bool started = false, running = false; };
static std::vector<std::unique_ptr<Fiber>> fibers;
static jmp_buf scheduler;
static unsigned current;
static const std::function<void()>* kernel_of_block;
static Barrier block_barrier, warp_barriers[32];

static void back_to_scheduler() {
    if (_setjmp(fibers[current]->place) == 0) _longjmp(scheduler, 1);
}
static void life() {
    for (;;) {
        (*kernel_of_block)();
        fibers[current]->running = false;
        back_to_scheduler();
    }
}
static void arrive(Barrier& barrier, unsigned count) {
    const unsigned turn = barrier.turn;
    if (++barrier.arrived == count) {
        barrier.arrived = 0;
        barrier.turn++;
        return;
    }
    while (barrier.turn == turn) back_to_scheduler();
}
static void sync_block() { arrive(block_barrier, block_threads); }
static void sync_warp() { arrive(warp_barriers[threadIdx.x / 32], 32); }

// Not inlined: what stands across the jump must lie in memory.
__attribute__((noinline)) static void resume(unsigned t) {
    current = t;
    threadIdx = {t, 0, 0};
    Fiber& fiber = *fibers[t];
    if (_setjmp(scheduler) != 0) return;
    if (fiber.started) _longjmp(fiber.place, 1);
    fiber.started = true;
    setcontext(&fiber.context);
}

static void run_block(unsigned threads, const std::function<void()>& kernel) {
    const size_t stack = 128 << 10;
    while (fibers.size() < threads) {
        fibers.push_back(std::make_unique<Fiber>());
        Fiber& fiber = *fibers.back();
        fiber.stack.reset(new char[stack]);
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = stack;
        makecontext(&fiber.context, life, 0);
    }
    kernel_of_block = &kernel;
    for (unsigned t = 0; t < threads; t++) fibers[t]->running = true;
    for (bool any = true; any;) {
        any = false;
        for (unsigned t = 0; t < threads; t++)
            if (fibers[t]->running) resume(t), any |= fibers[t]->running;
    }
}
#endif

// What lanes of a warp show each other.
struct Shown { unsigned words[8]; const void* at; };
static Shown shown[1024];
static const Shown* lanes() { return &shown[threadIdx.x / 32 * 32]; }

static void launch(Index grid, unsigned threads, const std::function<void()>& kernel) {
    gridDim = grid;
    block_threads = threads;
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                blockIdx = {x, y, z};
                std::memset(dynamic_shared, 0xff, sizeof dynamic_shared);  // NaN
                run_block(threads, kernel);
            }
}
}  // namespace cpu

static inline void __syncthreads() { cpu::sync_block(); }

[[maybe_unused]] static float shuffle_xor(float x, int mask) {
    cpu::shown[threadIdx.x].words[0] = std::bit_cast<unsigned>(x);
    cpu::sync_warp();
    float other = std::bit_cast<float>(cpu::lanes()[threadIdx.x % 32 ^ mask].words[0]);
    cpu::sync_warp();
    return other;
}

// The layouts are those of the PTX ISA, from the point of view of the whole matrices.
[[maybe_unused]] static void mma_bf16(float* d, const unsigned* a, unsigned b0, unsigned b1) {
    auto& mine = cpu::shown[threadIdx.x];
    for (int i = 0; i < 4; i++) mine.words[i] = a[i];
    mine.words[4] = b0, mine.words[5] = b1;
    cpu::sync_warp();
    auto half = [](unsigned word, int which) { return std::bit_cast<float>(which ? word & 0xffff0000u : word << 16); };
    const auto* lanes = cpu::lanes();
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int e = 0; e < 4; e++) {
        const int row = g + e / 2 * 8, column = 2 * t + e % 2;
        for (int k = 0; k < 16; k++) {
            const unsigned left = lanes[row % 8 * 4 + k % 8 / 2].words[k / 8 * 2 + row / 8];
            const unsigned right = lanes[column * 4 + k % 8 / 2].words[4 + k / 8];
            d[e] += half(left, k % 2) * half(right, k % 2);
        }
    }
    cpu::sync_warp();
}

static inline void load_matrices_as(unsigned* r, const void* row, bool transposed) {
    cpu::shown[threadIdx.x].at = row;
    cpu::sync_warp();
    const auto* lanes = cpu::lanes();
    const int lane = threadIdx.x % 32;
    auto element = [&](int matrix, int i, int j) { return ((const unsigned short*)lanes[8 * matrix + i].at)[j]; };
    for (int m = 0; m < 4; m++) {
        const int i = lane / 4, j = 2 * (lane % 4);
        const unsigned low = transposed ? element(m, j, i) : element(m, i, j);
        const unsigned high = transposed ? element(m, j + 1, i) : element(m, i, j + 1);
        r[m] = low | high << 16;
    }
    cpu::sync_warp();
}
[[maybe_unused]] static void load_matrices(unsigned* r, const unsigned short* row) { load_matrices_as(r, row, false); }
[[maybe_unused]] static void load_transposed(unsigned* r, const unsigned short* row) { load_matrices_as(r, row, true); }
