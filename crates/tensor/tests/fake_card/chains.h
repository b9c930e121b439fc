// Chains of kernels on the card made of the processor: each but the first may begin before those in front of it have ended
// (programmatic dependent launch; src/cuda/stream.rs has the rules).
//
// They begin as early as a card allows, and further ahead: of each a block, another one every time, runs up to where it waits
// for the kernel before, while that one has not written anything; but only if the kernel before lets it. What is read or
// written too early gives other results.
//
// A chain that is met for the first time is looked at more closely: it runs without overlap first, which tells what it
// writes; then once more, where all of that is NaN whenever a kernel has begun too early to read it, and the card's memory
// must have the same bits after it.
#pragma once

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <set>
#include <string>

#include "warps.h"

namespace chains {
using threads::Block;
using threads::Launch;
using Kernels = std::vector<const Launch*>;

// The card's memory: where, and how many bytes.
static std::map<uintptr_t, size_t> memory;
// How many kernels ahead of one that has not ended others begin.
const size_t AHEAD = 8;
// How often a block of a kernel began before the kernel in front of it had ended.
static std::map<std::string, unsigned> begun_early;
static unsigned begun_at_all;
// Chains by their kernels and grids.
static std::set<std::string> met;
static bool looks_closely = true;

using Words = std::vector<unsigned*>;
const unsigned POISON = 0xffffffffu;

inline void plainly(const Launch& launch) {
    for (unsigned y = 0; y < launch.blocks.y; y++)
        for (unsigned x = 0; x < launch.blocks.x; x++) go(*start(launch, {x, y}));
}

// A block of a kernel, as far as it comes before the kernel in front of its has ended. What the chain writes is NaN meanwhile.
inline std::unique_ptr<Block> begin(const Launch& launch, bool is_first, const Words& written) {
    const unsigned which = begun_at_all++ % (launch.blocks.x * launch.blocks.y);
    auto block = start(launch, {which % launch.blocks.x, which / launch.blocks.x});
    (is_first ? block->at_trigger : block->at_wait) = true;
    std::vector<unsigned> held;
    if (!is_first)
        for (unsigned* word : written) held.push_back(*word), *word = POISON;
    if (!go(*block)) put_aside(*block);
    for (auto& copies : warps::begun)
        if (!copies.empty()) threads::broken("copies to shared memory begin before it waits, which this card cannot put aside");
    if (is_first) return block;
    for (size_t i = 0; i < written.size(); i++) {
        if (*written[i] != POISON) threads::broken("it writes before it has waited for the kernel before");
        *written[i] = held[i];
    }
    begun_early[launch.name]++;
    return block;
}

inline void overlapping(const Kernels& kernels, const Words& written) {
    std::deque<std::unique_ptr<Block>> begun;  // of kernel `next` and those behind it
    for (size_t next = 0; next < kernels.size(); next++) {
        for (size_t i = next + begun.size(); i < kernels.size() && i < next + AHEAD; i++) {
            // The first of several begins only to see whether it lets others begin.
            if (i == next ? i + 1 == kernels.size() : !begun.back()->triggered) break;
            begun.push_back(begin(*kernels[i], i == next, written));
        }
        std::unique_ptr<Block> first;
        if (!begun.empty()) first = std::move(begun.front()), begun.pop_front();
        const Launch& launch = *kernels[next];
        for (unsigned y = 0; y < launch.blocks.y; y++)
            for (unsigned x = 0; x < launch.blocks.x; x++) {
                const bool is_begun = first && x == first->at.x && y == first->at.y;
                if (!is_begun) go(*start(launch, {x, y}));
                else if (!first->team.empty()) take_up(*first), go(*first);
            }
    }
}

// Calls f with every word of the card's memory that is not that of a copy of it.
template <typename F> inline void each_changed(std::vector<unsigned>& copy, const F& f) {
    const size_t some = 1024;
    unsigned* other = copy.data();
    for (auto [start, bytes] : memory) {
        unsigned* words = (unsigned*)start;
        for (size_t at = 0, count = bytes / 4; at < count; at += some) {
            const size_t end = std::min(at + some, count);
            if (!std::memcmp(words + at, other + at, 4 * (end - at))) continue;
            for (size_t i = at; i < end; i++)
                if (words[i] != other[i]) f(words + i, other[i]);
        }
        other += bytes / 4;
    }
}
inline void look_closely(const Kernels& kernels) {
    static std::vector<unsigned> copy;  // kept, since the system takes long to find memory
    size_t words = 0;
    for (auto [_, bytes] : memory) words += bytes / 4;
    if (copy.size() < words) copy.resize(words);
    unsigned* to = copy.data();
    for (auto [start, bytes] : memory) std::memcpy(to, (const void*)start, bytes / 4 * 4), to += bytes / 4;
    for (const Launch* launch : kernels) plainly(*launch);
    Words written;
    each_changed(copy, [&](unsigned* at, unsigned& before) {
        written.push_back(at);
        std::swap(*at, before);
    });
    overlapping(kernels, written);
    each_changed(copy, [&](const unsigned*, unsigned&) {
        std::fprintf(stderr, "fake card: kernels that overlap have other bits than kernels that do not:");
        for (const Launch* launch : kernels) std::fprintf(stderr, " %s", launch->name);
        std::fprintf(stderr, "\n");
        std::abort();
    });
}

// Runs kernels of which all but the first may begin early.
inline void run(const Kernels& kernels) {
    if (kernels.size() == 1) return plainly(*kernels[0]);
    std::string shape;
    for (const Launch* launch : kernels) {
        shape += launch->name;
        for (size_t size : {(size_t)launch->blocks.x, (size_t)launch->blocks.y, launch->shared})
            shape += " " + std::to_string(size);
    }
    if (looks_closely && met.insert(shape).second) look_closely(kernels);
    else overlapping(kernels, {});
}
}  // namespace chains
