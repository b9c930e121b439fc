// A card made of the processor, for tests: the functions of NVIDIA's driver, NVRTC, cuBLASLt and cuDNN that Herd calls. The
// card's memory is the host's, a stream runs everything at once or as late as it may (streams.h), a kernel is the very
// source that a card would run, compiled here by g++. So arguments, grids, offsets, lifetimes and formulas are those of a
// card.
//
// What it cannot show: that the code made for a card is right and fast, that cuBLASLt accepts the layouts and computes
// what it is asked to.
//
// New memory is filled with NaNs.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <utility>

#include "streams.h"
#include "warps.h"

#define KERNELS \
    K(adamw), K(adamw_rule), K(add), K(add_bias), K(add_scaled), K(add_shares), K(attention), K(attention_delta), \
    K(attention_dkv), K(attention_dq), K(attention_join), K(attention_lse), K(embed_rows), K(embedding), K(embedding_backward), K(few_add), K(few_gated), \
    K(few_qkv), K(few_store), K(from_f32), K(loss_gradient), K(negate), K(norm_rows), K(paged_attention), K(put_rows), \
    K(rms_norm), K(rms_norm_dw), K(rms_norm_dx), K(rope), K(scale), K(select_backward), K(shortlist), K(sum_of_squares), \
    K(sum_values), K(swiglu), K(swiglu_backward), K(to_f32)
#define TENSOR_CORES \
    K(attention_64), K(attention_128), K(attention_dq_64), K(attention_dq_128), K(attention_dkv_64), K(attention_dkv_128), \
    K(paged_decode_64), K(paged_decode_128), K(paged_mma_64), K(paged_mma_128), K(quantise_rows), K(quantise_rows_f32), \
    K(norm_rows_e4m3), K(swiglu_e4m3), K(add_rows), K(few_add_e4m3), K(few_gated_e4m3)

struct Kernel {
    const char* name;
    // A thread's work, with copies of these arguments.
    std::function<std::function<void()>(void**)> bind;
    size_t most_shared = threads::COMMON_SHARED;
};
template <typename... A> static Kernel kernel(const char* name, void (*f)(A...)) {
    return {name, [f](void** arguments) {
        return [&]<size_t... I>(std::index_sequence<I...>) -> std::function<void()> {
            return [f, values = std::tuple<A...>(*(A*)arguments[I]...)] { std::apply(f, values); };
        }(std::index_sequence_for<A...>());
    }};
}
#define K(name) {#name, kernel(#name, name)}

// Kernels for what this card itself does with chains: right; one that reads too early; one that writes too early; one that does
// not always wait; one that lets nobody begin.
static void next_right(const float* x, float* y) {
    launch_dependents();
    wait_for_previous();
    y[threadIdx.x] = x[threadIdx.x] + 1;
}
static void next_reads_early(const float* x, float* y) {
    launch_dependents();
    const float read = x[threadIdx.x];
    wait_for_previous();
    y[threadIdx.x] = read + 1;
}
static void next_writes_early(const float* x, float* y) {
    launch_dependents();
    y[threadIdx.x] = 0;
    wait_for_previous();
    y[threadIdx.x] = x[threadIdx.x] + 1;
}
static void next_waits_sometimes(const float* x, float* y) {
    if (threadIdx.x > 0) wait_for_previous();
    y[threadIdx.x] = x[threadIdx.x] + 1;
}
static void next_alone(const float* x, float* y) {
    wait_for_previous();
    y[threadIdx.x] = x[threadIdx.x] + 1;
}
// Right, too: what is in shared memory stays there while others run.
static void next_shares(const float* x, float* y) {
    __shared__ float ones[32];
    launch_dependents();
    ones[threadIdx.x] = 1;
    wait_for_previous();
    __syncthreads();
    y[threadIdx.x] = x[threadIdx.x] + ones[31 - threadIdx.x];
}
#define OF_THE_CARD \
    K(next_right), K(next_reads_early), K(next_writes_early), K(next_waits_sometimes), K(next_alone), K(next_shares)

namespace of_f32 {
#define ACT_F32
namespace {
#include "kernels.h"
}
static std::map<std::string, Kernel> table = {KERNELS, OF_THE_CARD};
}  // namespace of_f32
#undef ACT_F32
namespace of_bf16 {
#define ACT_BF16
namespace {
#include "kernels.h"
}
static std::map<std::string, Kernel> table = {KERNELS, TENSOR_CORES};
}  // namespace of_bf16

// The driver.

using chains::memory;
static const size_t LIMIT = (size_t)1 << 30;
static size_t taken;
// What each thread takes the card for, at first an sm_90 under a driver of CUDA 13.0.
static thread_local int capability = 90, driver_version = 13000;

// The version of its cuBLASLt.
static thread_local size_t cublas_version = 130400;
// Whether it refuses factors of rows and columns where sums are to be in f32.
static thread_local bool scales_bf16_only = false;

static bool inside(uint64_t address, size_t bytes) {
    auto after = memory.upper_bound(address);
    if (after == memory.begin()) return false;
    auto [start, size] = *std::prev(after);
    return address - start <= size && bytes <= size - (address - start);
}
using streams::ask;
using streams::unsafe_call;

extern "C" {
// For tests: what this thread sees from now on.
void fake_card_is(int of_capability, size_t of_cublas, bool bf16_only) {
    capability = of_capability, cublas_version = of_cublas, scales_bf16_only = bf16_only;
}
int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int* version) { return *version = driver_version, 0; }
int cuDeviceGetCount(int* count) { return *count = 1, 0; }
int cuDeviceGet(int* device, int index) { return index == 0 ? *device = 0, 0 : INVALID_VALUE; }
int cuDeviceGetName(char* name, int length, int) { return std::snprintf(name, length, "the processor"), 0; }
int cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = LIMIT, 0; }
int cuDeviceGetAttribute(int* value, int which, int) {
    return *value = which == 75 ? capability / 10 : which == 76 ? capability % 10 : which == 16 ? 8 : 1, 0;  // of 8 multiprocessors
}
int cuDevicePrimaryCtxRetain(void** context, int) { return *context = (void*)1, 0; }
int cuCtxSetCurrent(void* context) { return context == (void*)1 ? 0 : INVALID_VALUE; }
int cuMemAlloc_v2(uint64_t* address, size_t bytes) {
    LOCK;
    if (int error = unsafe_call()) return error;
    if (bytes == 0) return INVALID_VALUE;
    if (taken + bytes > LIMIT) return OUT_OF_MEMORY;
    void* block = std::aligned_alloc(512, (bytes + 511) / 512 * 512);
    std::memset(block, 0xff, bytes);
    memory[(uintptr_t)block] = bytes, taken += bytes;
    return *address = (uintptr_t)block, 0;
}
int cuMemGetInfo_v2(size_t* free, size_t* all) {
    LOCK;
    return *all = LIMIT, *free = LIMIT - taken, 0;
}
int cuMemFree_v2(uint64_t address) {
    LOCK;
    if (int error = unsafe_call()) return error;
    if (!memory.count(address)) return INVALID_VALUE;
    streams::run_all();
    taken -= memory[address], memory.erase(address);
    return std::free((void*)address), 0;
}
int cuMemHostAlloc(void** block, size_t bytes, unsigned) {
    LOCK;
    if (int error = unsafe_call()) return error;
    return *block = std::malloc(bytes), 0;
}
int cuMemFreeHost(void* block) {
    LOCK;
    streams::run_all();
    return std::free(block), 0;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void* stream) {
    LOCK;
    if (!inside(to, bytes)) return INVALID_VALUE;
    return ask(stream, [=] { std::memcpy((void*)to, from, bytes); });
}
int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void* stream) {
    LOCK;
    if (!inside(from, bytes)) return INVALID_VALUE;
    return ask(stream, [=] { std::memcpy(to, (void*)from, bytes); });
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void* stream) {
    LOCK;
    if (!inside(from, bytes) || !inside(to, bytes)) return INVALID_VALUE;
    return ask(stream, [=] { std::memmove((void*)to, (void*)from, bytes); });
}
int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void* stream) {
    LOCK;
    if (!inside(to, bytes)) return INVALID_VALUE;
    return ask(stream, [=] { std::memset((void*)to, value, bytes); });
}
int cuModuleLoadData(void** module, const void* image) {
    LOCK;
    if (int error = unsafe_call()) return error;
    // The "machine code" is the source, whose first line says what activations are.
    const bool f32 = !std::strncmp((const char*)image, "#define ACT_F32\n", 16);
    const bool bf16 = !std::strncmp((const char*)image, "#define ACT_BF16\n", 17);
    if (!f32 && !bf16) return 200;
    return *module = &(f32 ? of_f32::table : of_bf16::table), 0;
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
    auto& table = *(std::map<std::string, Kernel>*)module;
    auto found = table.find(name);
    if (found == table.end()) return NOT_FOUND;
    return *function = &found->second, 0;
}
int cuFuncSetAttribute(void* function, int attribute, int value) {
    LOCK;
    if (attribute != 8 || value < 0 || value > (int)threads::MOST_SHARED) return INVALID_VALUE;
    return ((Kernel*)function)->most_shared = value, 0;
}
static int launch(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned ty, unsigned tz,
                  unsigned shared, void* stream, void** arguments, void** extra, bool early) {
    LOCK;
    const Kernel& kernel = *(const Kernel*)function;
    if (!x || !y || y > 65535 || z != 1 || !threads || threads % threads::WARP || threads > threads::MOST || ty != 1 || tz != 1)
        return INVALID_VALUE;
    if (extra || shared > kernel.most_shared) return INVALID_VALUE;
    const threads::Launch launch{kernel.name, {x, y}, threads, shared, early, kernel.bind(arguments)};
    return ask(stream, streams::Work{{}, std::make_shared<threads::Launch>(launch)});
}
int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned ty, unsigned tz,
                   unsigned shared, void* stream, void** arguments, void** extra) {
    return launch(function, x, y, z, threads, ty, tz, shared, stream, arguments, extra, false);
}
struct LaunchAttribute { unsigned id, pad; int value; char rest[60]; };
struct LaunchConfig { unsigned grid[3], block[3], shared; void* stream; LaunchAttribute* attributes; unsigned count; };
int cuLaunchKernelEx(const LaunchConfig* config, void* function, void** arguments, void** extra) {
    const auto& [grid, block, shared, stream, attributes, count] = *config;
    // CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION; nothing else is asked for.
    if (count != 1 || attributes[0].id != 6) return INVALID_VALUE;
    if (capability < 90) return NOT_SUPPORTED;
    return launch(function, grid[0], grid[1], grid[2], block[0], block[1], block[2], shared, stream, arguments, extra,
                  attributes[0].value != 0);
}
// Not of the driver: how often blocks of a kernel began before the kernel in front of theirs had ended.
unsigned fake_card_begun_early(const char* kernel) {
    LOCK;
    return chains::begun_early[kernel];
}
// Not of the driver: whether chains are looked at more closely when they are met for the first time.
void fake_card_looks_closely(int closely) {
    LOCK;
    chains::looks_closely = closely;
}
// Not of the driver: what this thread takes the card for (90 is 9.0), and the driver.
void fake_card_under(int of_capability, int driver) { capability = of_capability, driver_version = driver; }
static const char* name_of(int code) {
    switch (code) {
        case OUT_OF_MEMORY: return "CUDA_ERROR_OUT_OF_MEMORY";
        case NOT_READY: return "CUDA_ERROR_NOT_READY";
        case CAPTURE_UNSUPPORTED: return "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED";
        case CAPTURE_INVALIDATED: return "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED";
        case CAPTURED_EVENT: return "CUDA_ERROR_CAPTURED_EVENT";
        default: return "CUDA_ERROR";
    }
}
int cuGetErrorName(int code, const char** text) { return *text = name_of(code), 0; }
int cuGetErrorString(int code, const char** text) {
    return *text = code == OUT_OF_MEMORY ? "out of memory" : "the fake card refuses", 0;
}

// NVRTC.

int nvrtcVersion(int* major, int* minor) { return *major = 0, *minor = 0, 0; }
int nvrtcCreateProgram(void** program, const char* source, const char*, int, const char* const*, const char* const*) {
    return *program = new std::string(source), 0;
}
int nvrtcCompileProgram(void*, int count, const char* const* options) {
    return count > 0 && options[0] == "--gpu-architecture=sm_" + std::to_string(capability) ? 0 : 6;
}
int nvrtcGetProgramLogSize(void*, size_t* size) { return *size = 8, 0; }
int nvrtcGetProgramLog(void*, char* log) { return std::strcpy(log, "refused"), 0; }
int nvrtcGetCUBINSize(void* program, size_t* size) { return *size = ((std::string*)program)->size() + 1, 0; }
int nvrtcGetCUBIN(void* program, char* code) { return std::strcpy(code, ((std::string*)program)->c_str()), 0; }
int nvrtcDestroyProgram(void** program) { return delete (std::string*)*program, *program = nullptr, 0; }
}

#include "products.h"
#include "cudnn.h"
