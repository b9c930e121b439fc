// cuBLASLt of the card made of the processor: column-major, D = alpha op(A) op(B) + beta C. Included by card.cpp.
//
// There are several algorithms, of which one is refused when it is to run, and one adds in no fixed order. Operands in e4m3
// are taken as the real one's documentation says: from sm_89 on, the first transposed, the second not, all sizes and strides
// multiples of 16 bytes; factors of rows and columns on sm_90 alone, from 12.9 on.
#pragma once

struct Desc { int compute, scale, operation[2], scale_mode[2]; const float* scales[2]; int fast; };
struct Layout { int type; uint64_t rows, columns; int64_t stride; };
struct Result { uint64_t algorithm[8]; size_t workspace; int state; float waves; int reserved[4]; };
enum { F32 = 0, BF16 = 14, E4M3 = 28, OUTER_VEC = 3, COMPUTE_F32 = 68, COMPUTE_TF32 = 77 };
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
size_t cublasLtGetVersion() { return cublas_version; }
int cublasLtCreate(void** handle) { return *handle = (void*)5, 0; }
int cublasLtMatmulDescCreate(void** desc, int compute, int scale) {
    return *desc = new Desc{compute, scale, {}, {}, {}, 0}, 0;
}
int cublasLtMatmulDescSetAttribute(void* desc, int attribute, const void* value, size_t size) {
    Desc& of = *(Desc*)desc;
    switch (attribute) {
        case 3: case 4: return size == 4 ? of.operation[attribute - 3] = *(const int*)value, 0 : 7;
        case 17: case 18: return size == 8 ? of.scales[attribute - 17] = *(const float* const*)value, 0 : 7;
        case 25: return size == 1 ? of.fast = *(const signed char*)value, 0 : 7;
        case 31: case 32:
            if (size != 4 || cublas_version < 120900) return 7;
            return of.scale_mode[attribute - 31] = *(const int*)value, 0;
        default: return 7;
    }
}
int cublasLtMatrixLayoutCreate(void** layout, int type, uint64_t rows, uint64_t columns, int64_t stride) {
    if ((type != F32 && type != BF16 && type != E4M3) || stride < (int64_t)rows) return 7;
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
    if (desc.scale != F32 || a.type != b.type || rows(a, 0) != d.rows || columns(b, 1) != d.columns || columns(a, 0) != rows(b, 1))
        return false;
    if (a.type != E4M3)
        return (desc.compute == COMPUTE_F32 || desc.compute == COMPUTE_TF32) && (d.type == F32 || d.type == a.type) &&
               !desc.scale_mode[0] && !desc.scale_mode[1] && !desc.scales[0] && !desc.scales[1] && !desc.fast;
    auto whole = [](const Layout& l) { return l.rows % 16 == 0 && l.columns % 16 == 0 && l.stride % 16 == 0; };
    if (capability < 89 || cublas_version < 120000 || desc.compute != COMPUTE_F32 || !desc.operation[0] || desc.operation[1] || !whole(a) || !whole(b) ||
        !whole(d) || (d.type != BF16 && d.type != F32))
        return false;
    if (!desc.scale_mode[0] && !desc.scale_mode[1]) return !desc.scales[0] && !desc.scales[1];
    return capability == 90 && !(scales_bf16_only && d.type == F32) && desc.scale_mode[0] == OUTER_VEC &&
           desc.scale_mode[1] == OUTER_VEC && desc.scales[0] && desc.scales[1];
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
// By the definition of the format.
static float from_e4m3(unsigned char code) {
    const int exponent = code >> 3 & 15, mantissa = code & 7;
    float x = exponent ? std::ldexp(1 + mantissa / 8.f, exponent - 7) : std::ldexp(mantissa / 8.f, -6);
    if (exponent == 15 && mantissa == 7) x = NAN;
    return code & 0x80 ? -x : x;
}
static float number(const void* base, const Layout& l, size_t row, size_t column) {
    const size_t at = column * l.stride + row;
    if (l.type == E4M3) return from_e4m3(((const unsigned char*)base)[at]);
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
            if (algorithm.in_f32)  // by the tile, as on a card
                for (size_t tile = 0; tile < depth; tile += 64) {
                    float rounded = 0;
                    for (size_t k = tile; k < depth && k < tile + 64; k++) rounded += p[k] * q[k];
                    sum += rounded;
                }
            else
                for (size_t k = 0; k < depth; k++) sum += (double)p[k] * q[k];
            const size_t at = j * ld.stride + i;
            sum *= alpha;
            if (desc.scales[0]) sum *= (double)desc.scales[0][i] * desc.scales[1][j];
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
        return inside((uintptr_t)base, ((l.columns - 1) * l.stride + l.rows) * (l.type == F32 ? 4 : l.type == E4M3 ? 1 : 2));
    };
    for (int side = 0; side < 2; side++) {
        if (desc.scales[side] && !inside((uintptr_t)desc.scales[side], 4 * (side ? ld.columns : ld.rows))) return 7;
        if (la.type == E4M3 && (uintptr_t)(side ? a : b) % 16) return 7;
    }
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
