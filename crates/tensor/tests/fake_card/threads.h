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
// One block runs at a time.
#ifdef REAL_THREADS
#define __shared__ static
#else
#define __shared__ static __attribute__((section("of_block")))
#endif
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

// A kernel that was asked for.
struct Launch {
    const char* name;
    Index blocks;
    unsigned threads;
    size_t shared;
    // Whether it may begin before the kernel in front of it has ended.
    bool early;
    std::function<void()> work;
};

#ifdef REAL_THREADS
inline void trigger() {}
inline void wait() {}
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
#else
const size_t STACK = 64 << 10;
struct Barrier { unsigned arrived = 0, turn = 0; };
struct Thread {
    ucontext_t first;
    jmp_buf place;
    bool started = false, done = true;
    // What it waits for, and the turn in which it came there.
    const Barrier* at = nullptr;
    unsigned turn = 0;
    // It has called wait_for_previous, or stands where its block is to stop.
    bool waited = false, stopped = false;
    std::unique_ptr<char[]> stack{new char[STACK]};
};
// Where variables lie that blocks share.
extern "C" unsigned char __start_of_block[], __stop_of_block[];

// The threads of a block; those of one that has ended serve the next.
using Team = std::vector<std::unique_ptr<Thread>>;
static std::vector<Team> idle;

// A block under way. It may be put aside while others run, with what its shared memory holds.
struct Block {
    const Launch* launch;
    Index at;
    Team team;
    Barrier of_block, of_warp[MOST / WARP];
    // Where its threads stop, and whether one of them has let the next kernel begin.
    bool at_trigger = false, at_wait = false, triggered = false;
    std::vector<unsigned char> held;
    unsigned char* dynamic = nullptr;
};

static jmp_buf scheduler;
static Block* block;
static Thread* running;

inline void back() {
    if (!_setjmp(running->place)) _longjmp(scheduler, 1);
}
// Every thread's whole life: work, and then wait for more.
inline void live() {
    for (;;) {
        block->launch->work();
        running->done = true;
        back();
    }
}
// The last to come goes on at once.
inline void arrive(Barrier& barrier, unsigned count) {
    if (++barrier.arrived == count) {
        barrier.arrived = 0, barrier.turn++;
        return;
    }
    running->at = &barrier, running->turn = barrier.turn;
    back();
}
inline void barrier() { arrive(block->of_block, block->launch->threads); }
inline void warp_barrier() { arrive(block->of_warp[threadIdx.x / WARP], WARP); }
inline void stop_if(bool here) {
    if (here) running->stopped = true, back();
}
inline void trigger() { block->triggered = true, stop_if(block->at_trigger); }
inline void wait() { running->waited = true, stop_if(block->at_wait); }

// Not inlined: what stands across the jump lies in memory.
__attribute__((noinline)) static void run(unsigned index) {
    threadIdx = {index, 0};
    Thread& thread = *block->team[index];
    running = &thread;
    if (_setjmp(scheduler)) return;
    if (thread.started) _longjmp(thread.place, 1);
    thread.started = true;
    getcontext(&thread.first);
    thread.first.uc_stack.ss_sp = thread.stack.get();
    thread.first.uc_stack.ss_size = STACK;
    thread.first.uc_link = nullptr;
    makecontext(&thread.first, live, 0);
    setcontext(&thread.first);
}

[[noreturn]] inline void broken(const char* what) {
    std::fprintf(stderr, "fake card: %s: %s\n", block->launch->name, what);
    std::abort();
}
inline std::unique_ptr<Block> start(const Launch& launch, Index at) {
    auto it = std::make_unique<Block>();
    it->launch = &launch, it->at = at;
    if (!idle.empty()) it->team = std::move(idle.back()), idle.pop_back();
    while (it->team.size() < launch.threads) it->team.push_back(std::make_unique<Thread>());
    for (unsigned t = 0; t < launch.threads; t++) {
        Thread& thread = *it->team[t];
        thread.done = thread.waited = thread.stopped = false, thread.at = nullptr;
    }
    std::memset(__start_of_block, 0xff, __stop_of_block - __start_of_block);  // NaN, as all shared memory
    poison_shared(launch.shared);
    it->dynamic = shared;
    return it;
}
// Runs a block as far as it comes. Whether all of it has ended.
inline bool go(Block& it) {
    block = &it, blockIdx = it.at, gridDim = it.launch->blocks, shared = it.dynamic;
    const unsigned count = it.launch->threads;
    for (;;) {
        bool moved = false, stopped = false;
        unsigned done = 0;
        for (unsigned t = 0; t < count; t++) {
            Thread& thread = *it.team[t];
            if (!thread.done && !thread.stopped && (!thread.at || thread.at->turn != thread.turn))
                thread.at = nullptr, run(t), moved = true;
            done += thread.done, stopped |= thread.stopped;
        }
        if (moved && done < count) continue;
        if (done == count) {
            for (unsigned t = 0; t < count; t++)
                if (it.launch->early && !it.team[t]->waited) broken("a thread has ended and not waited for the kernel before");
            idle.push_back(std::move(it.team));
            return true;
        }
        if (stopped) return false;
        // Threads that do not all meet at a barrier would hang a card.
        broken("some threads of a block have ended, the others wait at a barrier");
    }
}

// Puts a block aside, and takes it up again where it stopped.
inline void put_aside(Block& it) {
    it.held.assign(__start_of_block, __stop_of_block);
    it.held.insert(it.held.end(), it.dynamic, it.dynamic + it.launch->shared);
}
inline void take_up(Block& it) {
    const size_t fixed = __stop_of_block - __start_of_block;
    std::memcpy(__start_of_block, it.held.data(), fixed);
    std::memcpy(it.dynamic, it.held.data() + fixed, it.launch->shared);
    it.at_wait = it.at_trigger = false;
    for (auto& thread : it.team) thread->stopped = false;
}
#endif
}  // namespace threads

static inline void launch_dependents() { threads::trigger(); }
static inline void wait_for_previous() { threads::wait(); }

static inline void __syncthreads() { threads::barrier(); }
// One block runs at a time, and each of its threads sees what the others wrote.
static inline void __threadfence() {}
static inline unsigned atomicAdd(unsigned* at, unsigned x) { return __atomic_fetch_add(at, x, __ATOMIC_RELAXED); }
