// The threads of a block, one after the other on the processor: each runs until the next __syncthreads, then the next
// one, so all of them have come to a barrier before any goes on. They are contexts with stacks of their own, made once.
#pragma once

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <ucontext.h>
#include <vector>

struct Index { unsigned x, y; };
static Index threadIdx, blockIdx, gridDim;

namespace threads {
const unsigned COUNT = 256;
const size_t STACK = 64 << 10;

struct Thread {
    ucontext_t first;
    jmp_buf place;
    bool started = false, done = true;
    std::vector<char> stack = std::vector<char>(STACK);
};

static jmp_buf scheduler;
static std::vector<Thread> all;
static unsigned current;
static const std::function<void()>* work;

// Every thread's whole life: work, and then wait for more.
inline void live() {
    for (;;) {
        (*work)();
        all[current].done = true;
        if (!_setjmp(all[current].place)) _longjmp(scheduler, 1);
    }
}

inline void barrier() {
    if (!_setjmp(all[current].place)) _longjmp(scheduler, 1);
}

inline void run(unsigned index) {
    current = index;
    threadIdx = {index, 0};
    Thread& thread = all[index];
    if (_setjmp(scheduler)) return;
    if (thread.started) _longjmp(thread.place, 1);
    thread.started = true;
    getcontext(&thread.first);
    thread.first.uc_stack.ss_sp = thread.stack.data();
    thread.first.uc_stack.ss_size = STACK;
    thread.first.uc_link = nullptr;
    makecontext(&thread.first, live, 0);
    setcontext(&thread.first);
}

// One block. Threads that do not all meet at a barrier would hang a card.
inline void block(const std::function<void()>& kernel) {
    if (all.empty()) all.resize(COUNT);
    work = &kernel;
    for (Thread& thread : all) thread.done = false;
    for (bool more = true; more;) {
        unsigned done = 0;
        for (unsigned t = 0; t < COUNT; t++) run(t);
        for (Thread& thread : all) done += thread.done;
        more = done == 0;
        if (more || done == COUNT) continue;
        std::fprintf(stderr, "fake card: %u of %u threads of a block ended before a barrier\n", done, COUNT);
        std::abort();
    }
}
}  // namespace threads

#define __device__
// One block runs at a time, and each begins to write before it reads.
#define __shared__ static
static inline void __syncthreads() { threads::barrier(); }
