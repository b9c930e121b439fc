// Streams of the card made of the processor, and graphs that are captured from them.
//
// What is asked of a stream runs at once, or, if the stream is a late one, only when somebody waits for it: the host, or
// another stream, and no more of it than that. So where a wait is missing, one order or the other gives other results.
//
// A kernel that may begin before the one in front of it has ended does so (chains.h): so kernels wait for what may follow them.
//
// While a stream captures, what it is asked for becomes a node instead, with its arguments as they are then, and runs
// whenever the graph is launched. What the driver does not allow meanwhile is refused and spoils the capture, as there.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "chains.h"

static std::recursive_mutex one_at_a_time;
#define LOCK std::lock_guard<std::recursive_mutex> guard(one_at_a_time)

// Answers of the driver, from cuda.h.
enum {
    INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600, NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901, CAPTURED_EVENT = 907
};

namespace streams {
// Something, or a kernel.
struct Work {
    std::function<void()> run;
    std::shared_ptr<const threads::Launch> kernel;
};
// CUstreamCaptureMode: which threads may not make calls that are not safe while somebody captures.
enum Mode : unsigned { GLOBAL = 0, THREAD_LOCAL = 1, RELAXED = 2 };

using Graph = std::vector<Work>;
struct Stream {
    bool late = false;
    const std::thread::id maker = std::this_thread::get_id();
    std::deque<Work> queue;
    // How much it was asked for, and how much of that is done; whether the last of it is a kernel.
    uint64_t asked = 0, done = 0;
    bool behind_kernel = false;
    // What it captures, and whether something spoiled that.
    std::unique_ptr<Graph> captured;
    bool spoiled = false;
    Mode mode = GLOBAL;
    std::thread::id by;
};
// The moment when so much of a stream is done.
struct Event {
    Stream* of = nullptr;
    uint64_t asked = 0;
    bool captured = false;
    // The card's clock then.
    uint64_t ticks = 0;
};
// What matrix products take time of.
static uint64_t clock_of_card;
static unsigned times_told;

// What was made and not destroyed yet.
static std::set<void*> streams, events, graphs, executables;
template <typename T> static T* known(const std::set<void*>& all, void* handle) {
    return all.count(handle) ? (T*)handle : nullptr;
}
template <typename T> static int destroy(std::set<void*>& all, void* handle) {
    T* it = known<T>(all, handle);
    if (!it) return INVALID_HANDLE;
    return all.erase(handle), delete it, 0;
}
// Bit i: whether the i-th of the next streams that this thread makes is a late one.
static thread_local unsigned next_late;

// How much runs at once from `first` on: one thing, or a kernel and those behind it that may begin early; `most` at most.
template <typename List> static size_t length(const List& list, size_t first, uint64_t most) {
    auto early = [&](size_t i) { return list[i].kernel && list[i].kernel->early; };
    size_t count = 1;
    while (list[first].kernel && count < most && first + count < list.size() && early(first + count)) count++;
    return count;
}
static void run(const Graph& list, size_t first, size_t count) {
    if (!list[first].kernel) return list[first].run();
    std::vector<const threads::Launch*> kernels;
    for (size_t i = first; i < first + count; i++) kernels.push_back(list[i].kernel.get());
    chains::run(kernels);
}
static void run_whole(const Graph& graph) {
    for (size_t i = 0, count; i < graph.size(); i += count) run(graph, i, count = length(graph, i, UINT64_MAX));
}
// Runs what a stream was asked for, as far as that.
static void run(Stream& stream, uint64_t until) {
    while (stream.done < until && !stream.queue.empty()) {
        const size_t count = length(stream.queue, 0, until - stream.done);
        Graph some(stream.queue.begin(), stream.queue.begin() + count);
        stream.queue.erase(stream.queue.begin(), stream.queue.begin() + count);
        run(some, 0, count);
        stream.done += count;
    }
}
// Everything that was asked of this thread's streams, and of those of others that are not late.
static void run_all() {
    for (void* handle : streams) {
        Stream& stream = *(Stream*)handle;
        if (!stream.late || stream.maker == std::this_thread::get_id()) run(stream, UINT64_MAX);
    }
}
static bool happened(const Event& event) {
    return !event.of || !streams.count(event.of) || event.of->done >= event.asked;
}
static void wait(const Event& event) {
    if (!happened(event)) run(*event.of, event.asked);
}

static int ask(void* handle, Work work) {
    Stream* stream = known<Stream>(streams, handle);
    if (!stream) return INVALID_HANDLE;
    if (stream->spoiled) return CAPTURE_INVALIDATED;
    const bool is_kernel = work.kernel != nullptr, early = is_kernel && work.kernel->early;
    // Kernels overlap with nothing but kernels.
    if (early && !stream->behind_kernel) return INVALID_VALUE;
    stream->behind_kernel = is_kernel;
    if (stream->captured) return stream->captured->push_back(std::move(work)), 0;
    if (is_kernel && !early && !stream->late) run(*stream, UINT64_MAX);
    stream->queue.push_back(std::move(work)), stream->asked++;
    if (!is_kernel && !stream->late) run(*stream, UINT64_MAX);
    return 0;
}
static int ask(void* handle, std::function<void()> work) { return ask(handle, Work{std::move(work), nullptr}); }
// A call such as asking for memory: an error in the modes that forbid it.
static int unsafe_call() {
    int answer = 0;
    for (void* handle : streams) {
        Stream& stream = *(Stream*)handle;
        const bool mine = stream.by == std::this_thread::get_id();
        if (stream.captured && (stream.mode == GLOBAL || (stream.mode == THREAD_LOCAL && mine)))
            stream.spoiled = true, answer = CAPTURE_UNSUPPORTED;
    }
    return answer;
}
}  // namespace streams

extern "C" {
int cuStreamCreate(void** stream, unsigned) {
    LOCK;
    auto* made = new streams::Stream;
    made->late = streams::next_late & 1, streams::next_late >>= 1;
    return streams::streams.insert(*stream = made), 0;
}
int cuStreamDestroy_v2(void* stream) {
    LOCK;
    if (auto* known = streams::known<streams::Stream>(streams::streams, stream)) streams::run(*known, UINT64_MAX);
    return streams::destroy<streams::Stream>(streams::streams, stream);
}
int cuStreamSynchronize(void* handle) {
    LOCK;
    auto* stream = streams::known<streams::Stream>(streams::streams, handle);
    if (!stream) return INVALID_HANDLE;
    if (stream->captured) return stream->spoiled = true, CAPTURE_UNSUPPORTED;
    return streams::run(*stream, UINT64_MAX), 0;
}
int cuEventCreate(void** event, unsigned) {
    LOCK;
    return streams::events.insert(*event = new streams::Event), 0;
}
int cuEventDestroy_v2(void* event) {
    LOCK;
    return streams::destroy<streams::Event>(streams::events, event);
}
int cuEventRecord(void* event_, void* handle) {
    LOCK;
    auto* event = streams::known<streams::Event>(streams::events, event_);
    auto* stream = streams::known<streams::Stream>(streams::streams, handle);
    if (!event || !stream) return INVALID_HANDLE;
    if (!stream->captured)
        streams::ask(handle, [event_] {
            if (auto* event = streams::known<streams::Event>(streams::events, event_)) event->ticks = streams::clock_of_card;
        });
    const uint64_t ticks = event->ticks;
    return *event = {stream, stream->asked, stream->captured != nullptr, ticks}, 0;
}
int cuEventElapsedTime(float* milliseconds, void* start_, void* end_) {
    LOCK;
    auto* start = streams::known<streams::Event>(streams::events, start_);
    auto* end = streams::known<streams::Event>(streams::events, end_);
    if (!start || !end) return INVALID_HANDLE;
    if (!streams::happened(*start) || !streams::happened(*end)) return NOT_READY;
    streams::times_told++;
    return *milliseconds = (float)(end->ticks - start->ticks), 0;
}
// Not of the driver: how often it told a time.
unsigned fake_card_times_told() { return streams::times_told; }
int cuStreamWaitEvent(void* handle, void* event_, unsigned) {
    LOCK;
    auto* event = streams::known<streams::Event>(streams::events, event_);
    auto* stream = streams::known<streams::Stream>(streams::streams, handle);
    if (!event || !stream) return INVALID_HANDLE;
    // A graph over several streams is not made here.
    if (stream->captured || event->captured) return stream->spoiled = true, CAPTURE_UNSUPPORTED;
    return streams::ask(handle, [event = *event] { streams::wait(event); });
}
int cuEventQuery(void* event_) {
    LOCK;
    if (int error = streams::unsafe_call()) return error;
    auto* event = streams::known<streams::Event>(streams::events, event_);
    if (!event) return INVALID_HANDLE;
    return event->captured ? CAPTURED_EVENT : streams::happened(*event) ? 0 : NOT_READY;
}
int cuEventSynchronize(void* event_) {
    LOCK;
    const int answer = cuEventQuery(event_);
    if (answer != NOT_READY) return answer;
    return streams::wait(*(streams::Event*)event_), 0;
}
// Not of the driver: which of the next streams of this thread are late ones.
void fake_card_late(unsigned streams) { streams::next_late = streams; }

int cuStreamBeginCapture_v2(void* handle, unsigned mode) {
    LOCK;
    auto* stream = streams::known<streams::Stream>(streams::streams, handle);
    if (!stream || mode > streams::RELAXED) return INVALID_VALUE;
    if (stream->captured) return INVALID_VALUE;
    stream->behind_kernel = false;
    stream->captured = std::make_unique<streams::Graph>();
    stream->mode = (streams::Mode)mode, stream->by = std::this_thread::get_id();
    return 0;
}
int cuStreamEndCapture(void* handle, void** graph) {
    LOCK;
    auto* stream = streams::known<streams::Stream>(streams::streams, handle);
    if (!stream || !stream->captured) return INVALID_VALUE;
    auto captured = std::move(stream->captured);
    stream->behind_kernel = false;
    *graph = nullptr;
    if (stream->spoiled) return stream->spoiled = false, CAPTURE_INVALIDATED;
    return streams::graphs.insert(*graph = captured.release()), 0;
}
int cuGraphGetNodes(void* handle, void** nodes, size_t* count) {
    LOCK;
    auto* graph = streams::known<streams::Graph>(streams::graphs, handle);
    if (!graph || nodes) return INVALID_VALUE;
    return *count = graph->size(), 0;
}
int cuGraphInstantiateWithFlags(void** executable, void* handle, unsigned long long flags) {
    LOCK;
    auto* graph = streams::known<streams::Graph>(streams::graphs, handle);
    if (!graph || flags) return INVALID_VALUE;
    return streams::executables.insert(*executable = new streams::Graph(*graph)), 0;
}
int cuGraphLaunch(void* handle, void* stream) {
    LOCK;
    auto* graph = streams::known<streams::Graph>(streams::executables, handle);
    if (!graph) return INVALID_VALUE;
    return streams::ask(stream, [nodes = *graph] { streams::run_whole(nodes); });
}
int cuGraphDestroy(void* graph) {
    LOCK;
    return streams::destroy<streams::Graph>(streams::graphs, graph);
}
int cuGraphExecDestroy(void* executable) {
    LOCK;
    return streams::destroy<streams::Graph>(streams::executables, executable);
}
}
