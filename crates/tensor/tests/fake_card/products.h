// cuBLASLt of the card made of the processor: column-major, D = alpha op(A) op(B) + beta C. Included by card.cpp.
//
// There are several algorithms, of which one is refused when it is to run, and one adds in no fixed order.
#pragma once

struct Desc { int compute, scale, operation[2]; };
struct Layout { int type; uint64_t rows, columns; int64_t stride; };
struct Result { uint64_t algorithm[8]; size_t workspace; int state; float waves; int reserved[4]; };
enum { F32 = 0, BF16 = 14, COMPUTE_F32 = 68, COMPUTE_TF32 = 77 };
// What the heuristic names, in its order: how many ticks of the card's clock each takes, and its reduction scheme.
struct FakeAlgorithm { uint64_t id; unsigned ticks, scheme; bool refused, in_f32; };
static const FakeAlgorithm ALGORITHMS[] = {
    {4711, 4, 0, false, false}, {4712, 2, 2, false, true}, {4713, 1, 0, true, false}, {4714, 1, 1, false, false},
    {4715, 3, 0, false, false},
};
static const FakeAlgorithm* algorithm_of(const void* words) {
    for (auto& it : ALGORITHMS)
        if (it.id == *(const uint64_t*)words) return &it;
    return nullptr;
}
static unsigned schemes = 7;  // that the last preference allows

extern "C" {
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
int cublasLtMatmulPreferenceSetAttribute(void*, int attribute, const void* value, size_t size) {
    if (attribute == 3 && size == 4) return schemes = *(const unsigned*)value, 0;
    return attribute == 1 && size == 8 ? 0 : 7;
}
static bool fits(const Desc& desc, const Layout& a, const Layout& b, const Layout& d) {
    auto rows = [&](const Layout& l, int side) { return desc.operation[side] ? l.columns : l.rows; };
    auto columns = [&](const Layout& l, int side) { return desc.operation[side] ? l.rows : l.columns; };
    return (desc.compute == COMPUTE_F32 || desc.compute == COMPUTE_TF32) && desc.scale == F32 && a.type == b.type && (d.type == F32 || d.type == a.type) &&
           rows(a, 0) == d.rows && columns(b, 1) == d.columns && columns(a, 0) == rows(b, 1);
}
int cublasLtMatmulAlgoGetHeuristic(void*, void* desc, void* a, void* b, void* c, void* d, void*, int most, void* results,
                                   int* count) {
    if (!fits(*(Desc*)desc, *(Layout*)a, *(Layout*)b, *(Layout*)d) || c != d) return 15;
    *count = 0;
    for (auto& it : ALGORITHMS) {
        if (*count == most || (it.scheme & ~schemes)) continue;
        Result& result = ((Result*)results)[(*count)++];
        result = {}, result.algorithm[0] = it.id;
    }
    return 0;
}
int cublasLtMatmulAlgoConfigGetAttribute(const void* algorithm, int attribute, void* value, size_t size, size_t* written) {
    auto* it = algorithm_of(algorithm);
    if (!it || attribute != 3 || size != 4) return 7;
    return *(unsigned*)value = it->scheme, *written = 4, 0;
}
int cublasLtMatmulAlgoCheck(void*, void* desc, void* a, void* b, void* c, void* d, const void* algorithm, void* result) {
    if (!fits(*(Desc*)desc, *(Layout*)a, *(Layout*)b, *(Layout*)d) || c != d || !algorithm_of(algorithm)) return 15;
    return *(Result*)result = {}, 0;
}
static float number(const void* base, const Layout& l, size_t row, size_t column) {
    const size_t at = column * l.stride + row;
    return l.type == F32 ? ((const float*)base)[at] : of_bf16::load(((const unsigned short*)base)[at]);
}
// As tensor cores take f32: 10 bits behind the leading one.
static float to_tf32(float x) { return __uint_as_float((__float_as_uint(x) + 0x1000u) & 0xffffe000u); }
static void multiply(const FakeAlgorithm& algorithm, const Desc& desc, float alpha, const void* a, const Layout& la, const void* b, const Layout& lb, float beta,
                     const void* c, void* d, const Layout& ld) {
    const size_t depth = desc.operation[0] ? la.rows : la.columns;
    // Operands in order of the sum, so that the compiler can make it quick.
    std::vector<float> x(ld.rows * depth), y(ld.columns * depth);
    for (size_t i = 0; i < ld.rows; i++)
        for (size_t k = 0; k < depth; k++)
            x[i * depth + k] = desc.operation[0] ? number(a, la, k, i) : number(a, la, i, k);
    for (size_t j = 0; j < ld.columns; j++)
        for (size_t k = 0; k < depth; k++)
            y[j * depth + k] = desc.operation[1] ? number(b, lb, j, k) : number(b, lb, k, j);
    if (desc.compute == COMPUTE_TF32)
        for (auto* operand : {&x, &y})
            for (float& value : *operand) value = to_tf32(value);
    for (size_t j = 0; j < ld.columns; j++)
        for (size_t i = 0; i < ld.rows; i++) {
            double sum = 0;  // sums over a vocabulary are long
            const float *p = &x[i * depth], *q = &y[j * depth];
            float rounded = 0;
            if (algorithm.in_f32)
                for (size_t k = 0; k < depth; k++) rounded += p[k] * q[k];
            else
                for (size_t k = 0; k < depth; k++) sum += (double)p[k] * q[k];
            sum += rounded;
            const size_t at = j * ld.stride + i;
            sum *= alpha;
            // As the real one: what beta 0 stands before is not read.
            if (beta != 0) sum += beta * number(c, ld, i, j);
            if (ld.type == F32) ((float*)d)[at] = (float)sum;
            else ((unsigned short*)d)[at] = of_bf16::to_bf16((float)sum);
        }
}
int cublasLtMatmul(void*, void* desc_, const float* alpha, const void* a, void* a_, const void* b, void* b_,
                   const float* beta, const void* c, void*, void* d, void* d_, const uint64_t* algorithm, void* workspace,
                   size_t workspace_size, void* stream) {
    LOCK;
    const Desc& desc = *(Desc*)desc_;
    const Layout &la = *(Layout*)a_, &lb = *(Layout*)b_, &ld = *(Layout*)d_;
    auto whole = [](const void* base, const Layout& l) {
        return inside((uintptr_t)base, ((l.columns - 1) * l.stride + l.rows) * (l.type == F32 ? 4 : 2));
    };
    auto* it = algorithm_of(algorithm);
    if (!it || !whole(c, ld) || !whole(a, la) || !whole(b, lb) || !whole(d, ld)) return 7;
    if (!inside((uintptr_t)workspace, workspace_size)) return 7;
    if (it->refused) return 13;
    return ask(stream, [=, alpha = *alpha, beta = *beta] {
        streams::clock_of_card += it->ticks;
        multiply(*it, desc, alpha, a, la, b, lb, beta, c, d, ld);
    });
}
}
