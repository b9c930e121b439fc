// A card made of the processor: the functions of the driver, of NVRTC and of cuBLASLt that Herd calls. For tests only.
//
// Memory is main memory that is NaN until it is written. A launch runs the kernel of that name, compiled for the processor
// from the same source. A stream is a queue whose work is done as late as the interface allows: when somebody waits for it,
// or for an event behind it. So a missing event or a pinned buffer used again too early shows as a wrong number.
//
// It proves arguments, grids, addresses, lifetimes and the order of streams. Only a card proves the code made for it, what
// the real libraries do, races between warps, and speed.

#include "cpu.hpp"
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <sys/mman.h>

namespace F32 {
#define REAL_F32
#include "sources.inc"
#undef REAL_F32
}
namespace BF16 {
#define REAL_BF16
#include "sources.inc"
#undef REAL_BF16
}

using Kernel = std::function<void(void**)>;
template <auto F, typename... A, size_t... I>
static void call(void (*)(A...), void** arguments, std::index_sequence<I...>) {
    F(*(A*)arguments[I]...);
}
// Arguments are counted: Herd puts a null behind the last.
template <auto F, typename... A> static void checked(void (*f)(A...), void** arguments) {
    size_t count = 0;
    while (arguments[count]) count++;
    if (count != sizeof...(A)) {
        std::fprintf(stderr, "a kernel of %zu arguments was given %zu\n", sizeof...(A), count);
        std::abort();
    }
    call<F>(f, arguments, std::index_sequence_for<A...>());
}
struct Entry { Kernel run; std::vector<size_t> sizes; };
template <typename... A> static std::vector<size_t> sizes_of(void (*)(A...)) { return {sizeof(A)...}; }
template <auto F> static Entry entry() { return {[](void** a) { checked<F>(F, a); }, sizes_of(F)}; }
static const std::map<std::string, Entry> PROGRAMS[2] = {
    {
#include "entries_F32.inc"
    },
    {
#include "entries_BF16.inc"
    },
};

static std::recursive_mutex one_at_a_time;
#define LOCKED std::lock_guard<std::recursive_mutex> guard(one_at_a_time)

// ---- Streams and events
struct Stream { std::deque<std::function<void()>> work; size_t queued = 0, done = 0; };
struct Event { Stream* stream = nullptr; size_t place = 0; };

static void work_until(Stream& stream, size_t place) {
    while (stream.done < place && !stream.work.empty()) {
        auto work = std::move(stream.work.front());
        stream.work.pop_front();
        stream.done++;
        work();
    }
}
static void enqueue(void* stream, std::function<void()> work) {
    auto& s = *(Stream*)stream;
    s.work.push_back(std::move(work));
    s.queued++;
}

extern "C" {
int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int* version) { return *version = 13000, 0; }
int cuDeviceGetCount(int* count) { return *count = 1, 0; }
int cuDeviceGet(int* device, int ordinal) { return *device = ordinal, ordinal == 0 ? 0 : 101; }
int cuDeviceGetName(char* name, int size, int) { return std::snprintf(name, size, "the processor, for tests only"), 0; }
int cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = (size_t)4 << 30, 0; }
int cuDeviceGetAttribute(int* value, int attribute, int) {
    static const std::map<int, int> known = {{16, 1}, {75, 9}, {76, 0}, {97, 227 << 10}, {102, 1}};
    auto found = known.find(attribute);
    return found == known.end() ? 1 : (*value = found->second, 0);
}
int cuDevicePrimaryCtxRetain(void** context, int) { return *context = (void*)1, 0; }
static thread_local void* current_context;
int cuCtxSetCurrent(void* context) { return current_context = context, 0; }
int cuMemGetInfo_v2(size_t* free, size_t* total) { return *free = *total = (size_t)4 << 30, 0; }
int cuGetErrorName(int status, const char** text) { return *text = status == 201 ? "CUDA_ERROR_INVALID_CONTEXT" : "CUDA_ERROR_OF_THE_TEST", 0; }
int cuGetErrorString(int, const char** text) { return *text = "see card.cpp", 0; }
#define CONTEXT if (!current_context) return 201

int cuStreamCreate(void** stream, unsigned) { CONTEXT; return *stream = new Stream, 0; }
int cuStreamSynchronize(void* stream) { LOCKED; CONTEXT; return work_until(*(Stream*)stream, SIZE_MAX), 0; }
int cuStreamWaitEvent(void* stream, void* event, unsigned) {
    LOCKED; CONTEXT;
    Event then = *(Event*)event;
    enqueue(stream, [then] { if (then.stream) work_until(*then.stream, then.place); });
    return 0;
}
int cuEventCreate(void** event, unsigned) { CONTEXT; return *event = new Event, 0; }
int cuEventDestroy_v2(void* event) { return delete (Event*)event, 0; }
int cuEventRecord(void* event, void* stream) {
    LOCKED; CONTEXT;
    *(Event*)event = {(Stream*)stream, ((Stream*)stream)->queued};
    return 0;
}
int cuEventQuery(void* event) {
    LOCKED; CONTEXT;
    auto& e = *(Event*)event;
    return !e.stream || e.stream->done >= e.place ? 0 : 600;
}
int cuEventSynchronize(void* event) {
    LOCKED; CONTEXT;
    auto& e = *(Event*)event;
    if (e.stream) work_until(*e.stream, e.place);
    return 0;
}

// ---- Memory
int cuMemHostAlloc(void** host, size_t bytes, unsigned) {
    CONTEXT;
    return *host = std::malloc(bytes), std::memset(*host, 0xff, bytes), 0;
}
int cuMemAddressReserve(uint64_t* at, size_t size, size_t, uint64_t, unsigned long long) {
    void* p = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? 2 : (*at = (uint64_t)p, 0);
}
int cuMemGetAllocationGranularity(size_t* size, const void*, int) { return *size = 2 << 20, 0; }
int cuMemCreate(uint64_t* handle, size_t size, const void*, unsigned long long) { return *handle = size, 0; }
int cuMemMap(uint64_t, size_t size, size_t, uint64_t handle, unsigned long long) { return size == handle ? 0 : 1; }
int cuMemSetAccess(uint64_t at, size_t size, const void*, size_t) {
    if (mprotect((void*)at, size, PROT_READ | PROT_WRITE) != 0) return 2;
    return std::memset((void*)at, 0xff, size), 0;
}
int cuMemRelease(uint64_t) { return 0; }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void* stream) {
    LOCKED; CONTEXT;
    return enqueue(stream, [=] { std::memcpy((void*)to, from, bytes); }), 0;
}
int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void* stream) {
    LOCKED; CONTEXT;
    return enqueue(stream, [=] { std::memcpy(to, (void*)from, bytes); }), 0;
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void* stream) {
    LOCKED; CONTEXT;
    return enqueue(stream, [=] { std::memmove((void*)to, (void*)from, bytes); }), 0;
}
int cuMemsetD8Async(uint64_t at, unsigned char value, size_t bytes, void* stream) {
    LOCKED; CONTEXT;
    return enqueue(stream, [=] { std::memset((void*)at, value, bytes); }), 0;
}

// ---- Kernels
int cuModuleLoadData(void** module, const void* image) {
    const std::string text((const char*)image);
    if (text != "program F32" && text != "program BF16") return 200;
    return *module = (void*)&PROGRAMS[text == "program BF16"], 0;
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
    auto& program = *(const std::map<std::string, Entry>*)module;
    auto found = program.find(name);
    return found == program.end() ? 500 : (*function = (void*)&found->second, 0);
}
static std::map<void*, int> shared_limits;
int cuFuncSetAttribute(void* function, int attribute, int value) {
    LOCKED;
    if (attribute != 8 || value > 227 << 10) return 1;
    return shared_limits[function] = value, 0;
}
int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned threads, unsigned by, unsigned bz,
                   unsigned shared, void* stream, void** arguments, void** extra) {
    LOCKED; CONTEXT;
    if (!gx || !gy || !gz || !threads || threads > 1024 || by != 1 || bz != 1 || gy > 65535 || gz > 65535 || extra) return 1;
    const unsigned limit = shared_limits.count(function) ? shared_limits[function] : 48 << 10;
    if (shared > limit) return 1;
    auto& kernel = *(const Entry*)function;
    // The driver reads the arguments before it returns.
    auto values = std::make_shared<std::vector<uint64_t>>();
    for (size_t i = 0; arguments[i]; i++) {
        uint64_t value = 0;
        std::memcpy(&value, arguments[i], i < kernel.sizes.size() ? kernel.sizes[i] : 8);
        values->push_back(value);
    }
    enqueue(stream, [=, &kernel] {
        std::vector<void*> at;
        for (auto& value : *values) at.push_back(&value);
        at.push_back(nullptr);
        cpu::launch({gx, gy, gz}, threads, [&] { kernel.run(at.data()); });
    });
    return 0;
}

int nvrtcVersion(int* major, int* minor) { return *major = 0, *minor = 1, 0; }
int nvrtcCreateProgram(void** program, const char*, const char*, int, const char* const*, const char* const*) {
    return *program = new std::string, 0;
}
int nvrtcCompileProgram(void* program, int count, const char* const* options) {
    for (int i = 0; i < count; i++)
        if (std::strncmp(options[i], "-DREAL_", 7) == 0) *(std::string*)program = std::string("program ") + (options[i] + 7);
    return ((std::string*)program)->empty() ? 5 : 0;
}
int nvrtcGetProgramLogSize(void*, size_t* size) { return *size = 1, 0; }
int nvrtcGetProgramLog(void*, char* log) { return *log = 0, 0; }
int nvrtcGetCUBINSize(void* program, size_t* size) { return *size = ((std::string*)program)->size() + 1, 0; }
int nvrtcGetCUBIN(void* program, char* code) { return std::strcpy(code, ((std::string*)program)->c_str()), 0; }
int nvrtcDestroyProgram(void** program) { return delete (std::string*)*program, 0; }

// ---- Matrix products, ordered by columns
struct Layout { int type; uint64_t rows, columns; int64_t leading; };
struct Desc { int compute, scale, transpose_a = 0, transpose_b = 0; };
size_t cublasLtGetVersion() { return 1; }
int cublasLtCreate(void** handle) { CONTEXT; return *handle = (void*)1, 0; }
int cublasLtMatmulDescCreate(void** desc, int compute, int scale) { return *desc = new Desc{compute, scale}, 0; }
int cublasLtMatmulDescSetAttribute(void* desc, int attribute, const void* value, size_t size) {
    if (size != 4) return 7;
    if (attribute == 3) return ((Desc*)desc)->transpose_a = *(const int*)value, 0;
    if (attribute == 4) return ((Desc*)desc)->transpose_b = *(const int*)value, 0;
    return 7;
}
int cublasLtMatrixLayoutCreate(void** layout, int type, uint64_t rows, uint64_t columns, int64_t leading) {
    if ((type != 0 && type != 14) || leading < (int64_t)rows) return 7;
    return *layout = new Layout{type, rows, columns, leading}, 0;
}
int cublasLtMatmulPreferenceCreate(void** preference) { return *preference = (void*)1, 0; }
int cublasLtMatmulPreferenceSetAttribute(void*, int attribute, const void*, size_t size) {
    return size == (attribute == 1 ? 8u : 4u) ? 0 : 7;
}
int cublasLtMatmulPreferenceDestroy(void*) { return 0; }
struct Heuristic { uint64_t algorithm[8]; size_t workspace; int state; float waves; int reserved[4]; };
int cublasLtMatmulAlgoGetHeuristic(void*, void* desc, void* a, void* b, void* c, void* d, void*, int, Heuristic* results,
                                   int* found) {
    auto &e = *(Desc*)desc;
    auto &A = *(Layout*)a, &B = *(Layout*)b, &C = *(Layout*)c, &D = *(Layout*)d;
    const uint64_t m = e.transpose_a ? A.columns : A.rows, k = e.transpose_a ? A.rows : A.columns;
    const uint64_t n = e.transpose_b ? B.rows : B.columns, other = e.transpose_b ? B.columns : B.rows;
    if (k != other || D.rows != m || D.columns != n || C.rows != m || C.columns != n || C.type != D.type) return 7;
    if (A.type != B.type || e.compute != 68 || e.scale != 0) return 15;
    results[0] = {{0x68657264}, 0, 0, 1.f, {}};
    return *found = 1, 0;
}
static float get(uint64_t at, int type, size_t i) {
    return type == 0 ? ((const float*)at)[i] : F32::load(((const unsigned short*)at)[i]);
}
int cublasLtMatmul(void*, void* desc, const void* alpha, uint64_t a, void* a_layout, uint64_t b, void* b_layout,
                   const void* beta, uint64_t c, void* c_layout, uint64_t d, void* d_layout, const uint64_t* algorithm,
                   uint64_t, size_t, void* stream) {
    LOCKED; CONTEXT;
    if (algorithm[0] != 0x68657264) return 7;
    const Desc e = *(Desc*)desc;
    const Layout A = *(Layout*)a_layout, B = *(Layout*)b_layout, C = *(Layout*)c_layout, D = *(Layout*)d_layout;
    const float one = *(const float*)alpha, add = *(const float*)beta;
    enqueue(stream, [=] {
        const size_t m = D.rows, n = D.columns, k = e.transpose_a ? A.rows : A.columns;
        std::vector<float> left(m * k), right(n * k);
        for (size_t i = 0; i < m; i++)
            for (size_t p = 0; p < k; p++) left[i * k + p] = get(a, A.type, e.transpose_a ? p + i * A.leading : i + p * A.leading);
        for (size_t j = 0; j < n; j++)
            for (size_t p = 0; p < k; p++) right[j * k + p] = get(b, B.type, e.transpose_b ? j + p * B.leading : p + j * B.leading);
        for (size_t j = 0; j < n; j++)
            for (size_t i = 0; i < m; i++) {
                float sum = 0;
                for (size_t p = 0; p < k; p++) sum += left[i * k + p] * right[j * k + p];
                sum *= one;
                if (add != 0.f) sum += add * get(c, C.type, i + j * C.leading);
                if (D.type == 0) ((float*)d)[i + j * D.leading] = sum;
                else ((unsigned short*)d)[i + j * D.leading] = F32::to_bf16(sum);
            }
    });
    return 0;
}
}
