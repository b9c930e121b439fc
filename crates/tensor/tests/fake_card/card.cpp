// A card made of the processor, for tests: the functions of NVIDIA's driver, NVRTC, cuBLASLt and cuDNN that Herd calls. The
// card's memory is the host's, the stream runs everything at once, a kernel is the very source that a card would run,
// compiled here by g++. So arguments, grids, offsets, lifetimes and formulas are those of a card.
//
// What it cannot show: that the code made for a card is right and fast, that cuBLASLt accepts the layouts and computes
// what it is asked to, and errors of order that only a stream that runs later can show.
//
// New memory is filled with NaNs.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "warps.h"

#define KERNELS \
    K(adamw), K(adamw_rule), K(add), K(add_scaled), K(add_shares), K(attention), K(attention_delta), \
    K(attention_dkv), K(attention_dq), K(attention_join), K(attention_lse), K(embedding), K(embedding_backward), K(from_f32), K(loss_gradient), K(negate), \
    K(rms_norm), K(rms_norm_dw), K(rms_norm_dx), K(rope), K(scale), K(select_backward), K(sum_of_squares), \
    K(sum_values), K(swiglu), K(swiglu_backward), K(to_f32)
#define TENSOR_CORES \
    K(attention_64), K(attention_128), K(attention_dq_64), K(attention_dq_128), K(attention_dkv_64), K(attention_dkv_128)

struct Kernel {
    std::function<void(void**)> run;
    size_t most_shared = threads::COMMON_SHARED;
};
template <typename... A> static Kernel kernel(void (*f)(A...)) {
    return {[f](void** arguments) {
        [&]<size_t... I>(std::index_sequence<I...>) { f(*(A*)arguments[I]...); }(std::index_sequence_for<A...>());
    }};
}
#define K(name) {#name, kernel(name)}

namespace of_f32 {
#define ACT_F32
#include "kernels.h"
static std::map<std::string, Kernel> table = {KERNELS};
}  // namespace of_f32
#undef ACT_F32
namespace of_bf16 {
#define ACT_BF16
#include "kernels.h"
static std::map<std::string, Kernel> table = {KERNELS, TENSOR_CORES};
}  // namespace of_bf16

static std::recursive_mutex one_at_a_time;
#define LOCK std::lock_guard<std::recursive_mutex> guard(one_at_a_time)

// The driver.

static std::map<uintptr_t, size_t> memory;
static const size_t LIMIT = (size_t)1 << 30;
static size_t taken;

static bool inside(uint64_t address, size_t bytes) {
    auto after = memory.upper_bound(address);
    if (after == memory.begin()) return false;
    auto [start, size] = *std::prev(after);
    return address - start <= size && bytes <= size - (address - start);
}
enum { INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700 };

extern "C" {
int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int* version) { return *version = 13000, 0; }
int cuDeviceGetCount(int* count) { return *count = 1, 0; }
int cuDeviceGet(int* device, int index) { return index == 0 ? *device = 0, 0 : INVALID_VALUE; }
int cuDeviceGetName(char* name, int length, int) { return std::snprintf(name, length, "the processor"), 0; }
int cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = LIMIT, 0; }
int cuDeviceGetAttribute(int* value, int which, int) { return *value = which == 75 ? 9 : which == 76 ? 0 : 1, 0; }
int cuDevicePrimaryCtxRetain(void** context, int) { return *context = (void*)1, 0; }
int cuCtxSetCurrent(void* context) { return context == (void*)1 ? 0 : INVALID_VALUE; }
int cuStreamCreate(void** stream, unsigned) { return *stream = (void*)2, 0; }
int cuStreamSynchronize(void* stream) { return stream == (void*)2 ? 0 : INVALID_VALUE; }
int cuMemAlloc_v2(uint64_t* address, size_t bytes) {
    LOCK;
    if (bytes == 0) return INVALID_VALUE;
    if (taken + bytes > LIMIT) return OUT_OF_MEMORY;
    void* block = std::aligned_alloc(512, (bytes + 511) / 512 * 512);
    std::memset(block, 0xff, bytes);
    memory[(uintptr_t)block] = bytes, taken += bytes;
    return *address = (uintptr_t)block, 0;
}
int cuMemFree_v2(uint64_t address) {
    LOCK;
    if (!memory.count(address)) return INVALID_VALUE;
    taken -= memory[address], memory.erase(address);
    return std::free((void*)address), 0;
}
int cuMemHostAlloc(void** block, size_t bytes, unsigned) { return *block = std::malloc(bytes), 0; }
int cuMemFreeHost(void* block) { return std::free(block), 0; }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void*) {
    LOCK;
    if (!inside(to, bytes)) return INVALID_VALUE;
    return std::memcpy((void*)to, from, bytes), 0;
}
int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void*) {
    LOCK;
    if (!inside(from, bytes)) return INVALID_VALUE;
    return std::memcpy(to, (void*)from, bytes), 0;
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void*) {
    LOCK;
    if (!inside(from, bytes) || !inside(to, bytes)) return INVALID_VALUE;
    return std::memmove((void*)to, (void*)from, bytes), 0;
}
int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void*) {
    LOCK;
    if (!inside(to, bytes)) return INVALID_VALUE;
    return std::memset((void*)to, value, bytes), 0;
}
int cuEventCreate(void** event, unsigned) { return *event = (void*)3, 0; }
int cuEventRecord(void*, void*) { return 0; }
int cuEventQuery(void*) { return 0; }
int cuEventSynchronize(void*) { return 0; }
int cuEventDestroy_v2(void*) { return 0; }
int cuModuleLoadData(void** module, const void* image) {
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
int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned ty, unsigned tz,
                   unsigned shared, void* stream, void** arguments, void** extra) {
    LOCK;
    const Kernel& kernel = *(const Kernel*)function;
    if (!x || !y || y > 65535 || z != 1 || !threads || threads % threads::WARP || threads > threads::MOST || ty != 1 || tz != 1)
        return INVALID_VALUE;
    if (stream != (void*)2 || extra || shared > kernel.most_shared) return INVALID_VALUE;
    return threads::grid({x, y}, threads, shared, [&] { kernel.run(arguments); }), 0;
}
int cuGetErrorName(int code, const char** text) {
    return *text = code == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR", 0;
}
int cuGetErrorString(int code, const char** text) {
    return *text = code == OUT_OF_MEMORY ? "out of memory" : "the fake card refuses", 0;
}

// NVRTC.

int nvrtcVersion(int* major, int* minor) { return *major = 0, *minor = 0, 0; }
int nvrtcCreateProgram(void** program, const char* source, const char*, int, const char* const*, const char* const*) {
    return *program = new std::string(source), 0;
}
int nvrtcCompileProgram(void*, int count, const char* const* options) {
    return count > 0 && !std::strcmp(options[0], "--gpu-architecture=sm_90") ? 0 : 6;
}
int nvrtcGetProgramLogSize(void*, size_t* size) { return *size = 8, 0; }
int nvrtcGetProgramLog(void*, char* log) { return std::strcpy(log, "refused"), 0; }
int nvrtcGetCUBINSize(void* program, size_t* size) { return *size = ((std::string*)program)->size() + 1, 0; }
int nvrtcGetCUBIN(void* program, char* code) { return std::strcpy(code, ((std::string*)program)->c_str()), 0; }
int nvrtcDestroyProgram(void** program) { return delete (std::string*)*program, *program = nullptr, 0; }

// cuBLASLt: column-major, D = alpha op(A) op(B) + beta C.

struct Desc { int compute, scale, operation[2]; };
struct Layout { int type; uint64_t rows, columns; int64_t stride; };
struct Result { uint64_t algorithm[8]; size_t workspace; int state; float waves; int reserved[4]; };
enum { F32 = 0, BF16 = 14, MAGIC = 4711 };

size_t cublasLtGetVersion() { return 0; }
int cublasLtCreate(void** handle) { return *handle = (void*)5, 0; }
int cublasLtMatmulDescCreate(void** desc, int compute, int scale) {
    return *desc = new Desc{compute, scale, {0, 0}}, 0;
}
int cublasLtMatmulDescSetAttribute(void* desc, int attribute, const void* value, size_t size) {
    if ((attribute != 3 && attribute != 4) || size != 4) return 7;
    return ((Desc*)desc)->operation[attribute - 3] = *(const int*)value, 0;
}
int cublasLtMatrixLayoutCreate(void** layout, int type, uint64_t rows, uint64_t columns, int64_t stride) {
    if ((type != F32 && type != BF16) || stride < (int64_t)rows) return 7;
    return *layout = new Layout{type, rows, columns, stride}, 0;
}
int cublasLtMatmulPreferenceCreate(void** preference) { return *preference = (void*)6, 0; }
int cublasLtMatmulPreferenceSetAttribute(void*, int attribute, const void*, size_t size) {
    return attribute == 1 && size == 8 ? 0 : 7;
}
static bool fits(const Desc& desc, const Layout& a, const Layout& b, const Layout& d) {
    auto rows = [&](const Layout& l, int side) { return desc.operation[side] ? l.columns : l.rows; };
    auto columns = [&](const Layout& l, int side) { return desc.operation[side] ? l.rows : l.columns; };
    return desc.compute == 68 && desc.scale == F32 && a.type == b.type && (d.type == F32 || d.type == a.type) &&
           rows(a, 0) == d.rows && columns(b, 1) == d.columns && columns(a, 0) == rows(b, 1);
}
int cublasLtMatmulAlgoGetHeuristic(void*, void* desc, void* a, void* b, void* c, void* d, void*, int, void* results,
                                   int* count) {
    if (!fits(*(Desc*)desc, *(Layout*)a, *(Layout*)b, *(Layout*)d) || c != d) return 15;
    Result* result = (Result*)results;
    *result = {}, result->algorithm[0] = MAGIC;
    return *count = 1, 0;
}
static float number(const void* base, const Layout& l, size_t row, size_t column) {
    const size_t at = column * l.stride + row;
    return l.type == F32 ? ((const float*)base)[at] : of_bf16::load(((const unsigned short*)base)[at]);
}
int cublasLtMatmul(void*, void* desc_, const float* alpha, const void* a, void* a_, const void* b, void* b_,
                   const float* beta, const void* c, void*, void* d, void* d_, const uint64_t* algorithm, void* workspace,
                   size_t workspace_size, void*) {
    LOCK;
    const Desc& desc = *(Desc*)desc_;
    const Layout &la = *(Layout*)a_, &lb = *(Layout*)b_, &ld = *(Layout*)d_;
    auto whole = [](const void* base, const Layout& l) {
        return inside((uintptr_t)base, ((l.columns - 1) * l.stride + l.rows) * (l.type == F32 ? 4 : 2));
    };
    if (algorithm[0] != MAGIC || !whole(c, ld) || !whole(a, la) || !whole(b, lb) || !whole(d, ld)) return 7;
    if (!inside((uintptr_t)workspace, workspace_size)) return 7;
    const size_t depth = desc.operation[0] ? la.rows : la.columns;
    // Operands in order of the sum, so that the compiler can make it quick.
    std::vector<float> x(ld.rows * depth), y(ld.columns * depth);
    for (size_t i = 0; i < ld.rows; i++)
        for (size_t k = 0; k < depth; k++)
            x[i * depth + k] = desc.operation[0] ? number(a, la, k, i) : number(a, la, i, k);
    for (size_t j = 0; j < ld.columns; j++)
        for (size_t k = 0; k < depth; k++)
            y[j * depth + k] = desc.operation[1] ? number(b, lb, j, k) : number(b, lb, k, j);
    for (size_t j = 0; j < ld.columns; j++)
        for (size_t i = 0; i < ld.rows; i++) {
            double sum = 0;  // sums over a vocabulary are long
            const float *p = &x[i * depth], *q = &y[j * depth];
            for (size_t k = 0; k < depth; k++) sum += (double)p[k] * q[k];
            const size_t at = j * ld.stride + i;
            sum *= *alpha;
            // As the real one: what beta 0 stands before is not read.
            if (*beta != 0) sum += *beta * number(c, ld, i, j);
            if (ld.type == F32) ((float*)d)[at] = (float)sum;
            else ((unsigned short*)d)[at] = of_bf16::to_bf16((float)sum);
        }
    return 0;
}
}

#include "cudnn.h"
