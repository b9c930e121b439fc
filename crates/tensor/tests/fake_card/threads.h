// Blocks of threads on the processor. One block runs at a time. Its threads run one after the other: each until it has to
// wait at a barrier, then the next one; they are contexts with stacks of their own, made once. With REAL_THREADS they are
// threads, so that ThreadSanitizer sees a missing barrier as a data race.
#pragma once

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <sys/mman.h>
#include <ucontext.h>
#include <vector>
#ifdef REAL_THREADS
#include <barrier>
#include <thread>
#endif

struct Index { unsigned x, y; };
#ifdef REAL_THREADS
static thread_local Index threadIdx;
#else
static Index threadIdx;
#endif
static Index blockIdx, gridDim;

#define __device__
// One block runs at a time, and each begins to write before it reads.
#define __shared__ static
#define DYNAMIC_SHARED(name) unsigned char* name = threads::shared
#define KERNEL static
#define __launch_bounds__(threads, blocks)

namespace threads {
const unsigned MOST = 1024, WARP = 32;
// Dynamic shared memory of a block of an H100 or H200, at most, and without an attribute of the kernel.
const size_t MOST_SHARED = 227 << 10, COMMON_SHARED = 48 << 10;

// The block's dynamic shared memory. It ends where memory begins that nobody may touch.
static unsigned char* shared;

inline void poison_shared(size_t bytes) {
    const size_t whole = 228 << 10, page = 4 << 10;
    static unsigned char* const start = [=] {
        void* pages = mmap(nullptr, whole + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (pages == MAP_FAILED || mprotect(pages, whole, PROT_READ | PROT_WRITE) != 0) std::abort();
        return (unsigned char*)pages;
    }();
    bytes = (bytes + 15) / 16 * 16;
    shared = start + whole - bytes;
    std::memset(shared, 0xff, bytes);  // NaN
}

#ifdef REAL_THREADS
static std::unique_ptr<std::barrier<>> of_block, of_warp[MOST / WARP];
inline void barrier() { of_block->arrive_and_wait(); }
inline void warp_barrier() { of_warp[threadIdx.x / WARP]->arrive_and_wait(); }

inline void block(unsigned count, const std::function<void()>& kernel) {
    of_block = std::make_unique<std::barrier<>>(count);
    for (unsigned w = 0; w < count / WARP; w++) of_warp[w] = std::make_unique<std::barrier<>>(WARP);
    std::vector<std::thread> list;
    for (unsigned t = 0; t < count; t++) list.emplace_back([&kernel, t] { threadIdx = {t, 0}; kernel(); });
    for (auto& thread : list) thread.join();
}
#else
struct Barrier { unsigned arrived = 0, turn = 0; };
struct Thread {
    ucontext_t first;
    jmp_buf place;
    bool started = false, done = true;
    // What it waits for, and the turn in which it came there.
    const Barrier* at = nullptr;
    unsigned turn = 0;
    std::vector<char> stack = std::vector<char>(64 << 10);
};

static jmp_buf scheduler;
static std::vector<std::unique_ptr<Thread>> all;
static unsigned current, size;
static Barrier of_block, of_warp[MOST / WARP];
static const std::function<void()>* work;

inline void back() {
    if (!_setjmp(all[current]->place)) _longjmp(scheduler, 1);
}
// Every thread's whole life: work, and then wait for more.
inline void live() {
    for (;;) {
        (*work)();
        all[current]->done = true;
        back();
    }
}
// The last to come goes on at once.
inline void arrive(Barrier& barrier, unsigned count) {
    if (++barrier.arrived == count) {
        barrier.arrived = 0, barrier.turn++;
        return;
    }
    all[current]->at = &barrier, all[current]->turn = barrier.turn;
    back();
}
inline void barrier() { arrive(of_block, size); }
inline void warp_barrier() { arrive(of_warp[threadIdx.x / WARP], WARP); }

// Not inlined: what stands across the jump lies in memory.
__attribute__((noinline)) static void run(unsigned index) {
    current = index;
    threadIdx = {index, 0};
    Thread& thread = *all[index];
    if (_setjmp(scheduler)) return;
    if (thread.started) _longjmp(thread.place, 1);
    thread.started = true;
    getcontext(&thread.first);
    thread.first.uc_stack.ss_sp = thread.stack.data();
    thread.first.uc_stack.ss_size = thread.stack.size();
    thread.first.uc_link = nullptr;
    makecontext(&thread.first, live, 0);
    setcontext(&thread.first);
}

// Threads that do not all meet at a barrier would hang a card.
inline void block(unsigned count, const std::function<void()>& kernel) {
    while (all.size() < count) all.push_back(std::make_unique<Thread>());
    work = &kernel, size = count;
    for (unsigned t = 0; t < count; t++) all[t]->done = false, all[t]->at = nullptr;
    for (unsigned done = 0; done < count;) {
        bool moved = false;
        done = 0;
        for (unsigned t = 0; t < count; t++) {
            Thread& thread = *all[t];
            const bool ready = !thread.done && (!thread.at || thread.at->turn != thread.turn);
            if (ready) thread.at = nullptr, run(t), moved = true;
            done += thread.done;
        }
        if (moved || done == count) continue;
        std::fprintf(stderr, "fake card: %u of %u threads of a block ended, the others wait at a barrier\n", done, count);
        std::abort();
    }
}
#endif

// Every block of a grid, with so many bytes of dynamic shared memory.
inline void grid(Index blocks, unsigned count, size_t bytes, const std::function<void()>& kernel) {
    gridDim = blocks;
    for (unsigned y = 0; y < blocks.y; y++)
        for (unsigned x = 0; x < blocks.x; x++) {
            blockIdx = {x, y};
            poison_shared(bytes);
            block(count, kernel);
        }
}
}  // namespace threads

static inline void __syncthreads() { threads::barrier(); }
// One block runs at a time, and each of its threads sees what the others wrote.
static inline void __threadfence() {}
static inline unsigned atomicAdd(unsigned* at, unsigned x) { return __atomic_fetch_add(at, x, __ATOMIC_RELAXED); }
