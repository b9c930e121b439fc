// FP8: numbers of 8 bits, e4m3 (a sign, 4 bits of exponent with bias 7, 3 of mantissa; no infinity, 0x7f is NaN), in rows
// that share a scale, f32: what a code stands for is its value times the scale of its row. Only with activations in bf16.
//
// A row's scale is its largest magnitude / 448, the largest number of e4m3. That of activations is bounded first, by 1200 (the
// Llama 3 paper, 6.2): what is larger saturates. The columns of every row are a multiple of 16.
//
// The same arithmetic on every card, none of the instructions for e4m3 that sm_89 has: rounding costs little beside reading.
#ifndef ACT_F32
struct e4m3 { unsigned char bits; };
const float E4M3_MOST = 448.f, E4M3_BOUND = 1200.f;

// To the nearest, ties to even; saturating. NaN stays NaN.
__device__ inline unsigned to_e4m3(float x) {
    const unsigned sign = __float_as_uint(x) >> 24 & 0x80u, magnitude = __float_as_uint(x) & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return sign | 0x7fu;
    const float a = fminf(__uint_as_float(magnitude), E4M3_MOST);
    // Below 2^-6 codes are multiples of 2^-9: those that a sum with 2^14 rounds to.
    if (a < 0.015625f) return sign | (__float_as_uint(a + 16384.f) - __float_as_uint(16384.f));
    const unsigned bits = __float_as_uint(a);
    return sign | (((bits + 0x7ffffu + (bits >> 20 & 1u)) >> 20) - (120u << 3));
}

// A row's scale, and what its values are multiplied with; a row of almost nothing is 0.
struct RowScale { float scale, inverse; };
__device__ inline RowScale row_scale(float most) { return {most / E4M3_MOST, most > 1e-30f ? E4M3_MOST / most : 0.f}; }

// Four codes, of value(0) to value(3).
template <typename Value>
__device__ inline unsigned four_e4m3(const RowScale& of, const Value& value) {
    unsigned codes = 0;
#pragma unroll
    for (int e = 0; e < 4; e++) codes |= to_e4m3(value(e) * of.inverse) << 8 * e;
    return codes;
}

// y [i, d] with scales [i] = rows of x, whose largest magnitudes are taken to be `bound` at most: a block a row.
template <typename T>
__device__ inline void quantise_row(const T* x, unsigned* y, float* scales, int d, float bound) {
    __shared__ float scratch[THREADS];
    const T* from = x + (size_t)blockIdx.x * d;
    float most = 0.f;
    for (int j = threadIdx.x; j < d; j += THREADS) most = fmaxf(most, fabsf(load(from[j])));
    const RowScale of = row_scale(fminf(block_reduce<float, true>(most, scratch), bound));
    for (int j = threadIdx.x; j < d / 4; j += THREADS)
        y[(size_t)blockIdx.x * (d / 4) + j] = four_e4m3(of, [&](int e) { return load(from[4 * j + e]); });
    if (threadIdx.x == 0) scales[blockIdx.x] = of.scale;
}
KERNEL void quantise_rows(const act* x, unsigned* y, float* scales, int d, float bound) {
    quantise_row(x, y, scales, d, bound);
}
KERNEL void quantise_rows_f32(const float* x, unsigned* y, float* scales, int d, float bound) {
    quantise_row(x, y, scales, d, bound);
}

// norm_rows (paged.cu) of all rows of the stream x [n, d], as activations in e4m3: a block a row.
KERNEL void norm_rows_e4m3(const float* x, const float* w, unsigned* y, float* scales, int d, float eps) {
    __shared__ float scratch[THREADS];
    const float* from = x + (size_t)blockIdx.x * d;
    float squares = 0.f, most = 0.f;
    for (int j = 4 * threadIdx.x; j < d; j += 4 * THREADS) {
        const Words v = load_words(from + j), f = load_words(w + j);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const float value = __uint_as_float(v.w[e]);
            squares += value * value;
            most = fmaxf(most, fabsf(value * __uint_as_float(f.w[e])));
        }
    }
    const float r = 1.f / sqrtf(block_reduce<float, false>(squares, scratch) / (float)d + eps);
    const RowScale of = row_scale(fminf(block_reduce<float, true>(most, scratch) * r, E4M3_BOUND));
    for (int j = 4 * threadIdx.x; j < d; j += 4 * THREADS) {
        const Words v = load_words(from + j), f = load_words(w + j);
        y[((size_t)blockIdx.x * d + j) / 4] =
            four_e4m3(of, [&](int e) { return __uint_as_float(v.w[e]) * r * __uint_as_float(f.w[e]); });
    }
    if (threadIdx.x == 0) scales[blockIdx.x] = of.scale;
}

// y [n, f] = silu(gate) up of rows [gate | up] of 2 f, as activations in e4m3: a block a row. If the product has not done so, gate
// and up are scaled first, by rows [n] (which may be `scales`: a row is read before it is written) and columns [2 f].
KERNEL void swiglu_e4m3(const act* gate_up, const float* rows, const float* columns, unsigned* y, float* scales, int f) {
    __shared__ float scratch[THREADS];
    const act* gates = gate_up + (size_t)blockIdx.x * 2 * f;
    const float row = rows ? rows[blockIdx.x] : 1.f;
    auto eight = [&](int j, float* values) {
        const Words g = load_words(gates + j), u = load_words(gates + f + j);
#pragma unroll
        for (int e = 0; e < 8; e++) {
            float gate = load((bf16)(g.w[e / 2] >> 16 * (e % 2))), up = load((bf16)(u.w[e / 2] >> 16 * (e % 2)));
            if (rows) gate *= row * columns[j + e], up *= row * columns[f + j + e];
            values[e] = gate / (1.f + expf(-gate)) * up;
        }
    };
    float most = 0.f, values[8];
    for (int j = 8 * threadIdx.x; j < f; j += 8 * THREADS) {
        eight(j, values);
#pragma unroll
        for (int e = 0; e < 8; e++) most = fmaxf(most, fabsf(values[e]));
    }
    const RowScale of = row_scale(fminf(block_reduce<float, true>(most, scratch), E4M3_BOUND));
    for (int j = 8 * threadIdx.x; j < f; j += 8 * THREADS) {
        eight(j, values);
        unsigned* to = y + ((size_t)blockIdx.x * f + j) / 4;
        to[0] = four_e4m3(of, [&](int e) { return values[e]; });
        to[1] = four_e4m3(of, [&](int e) { return values[4 + e]; });
    }
    if (threadIdx.x == 0) scales[blockIdx.x] = of.scale;
}

// y += x, both [n, d] with `values` numbers; scaled by rows [n] and columns [d], unless null.
KERNEL void add_rows(const act* x, const float* rows, const float* columns, float* y, size_t values, int d) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= values) return;
    y[i] += load(x[i]) * (rows ? rows[i / d] * columns[i % d] : 1.f);
}

// Products of few rows of bf16 with a matrix in e4m3, whose numbers are made bf16 in registers, exactly; sums are scaled when they
// are complete. As few_sums of bf16, but a lane reads 16 columns at 16 t.

// Two codes, in bits 8 to 15 and 24 to 31, as bf16. Shifted to their places they are 2^120 times too small.
__device__ inline unsigned pair_of_e4m3(unsigned codes) {
    return raise_by_120((codes & 0x80008000u) | (codes >> 4 & 0x07f007f0u));
}

template <bool STREAM>
__device__ inline void few_sums(float* c, const e4m3* w0, const e4m3* w1, const FewInput& in, act* staged,
                                float (*squares)[FEW]) {
    const int UNROLL = 4, STEP = 64 * FEW_WARPS, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, k = in.k;
    const Words zero = {};
    const act* row = (STREAM ? staged : in.x) + (size_t)g * k;
    bool ready = false;
    int base = threadIdx.x / 32 * 64;
    do {
        Words a[2][UNROLL], b[UNROLL][2];
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            const int at = base + u * STEP + 16 * t;
            a[0][u] = at < k && w0 ? load_once(w0 + at) : zero;
            a[1][u] = at < k && w1 ? load_once(w1 + at) : zero;
        }
        if (!ready) few_begin<STREAM>(staged, squares, in), ready = true;
        auto words = [&](int u) {
            const int at = base + u * STEP + 16 * t;
            for (int half = 0; half < 2; half++)
                b[u][half] = at < k && g < in.n ? *(const Words*)(row + at + 8 * half) : zero;
        };
#pragma unroll
        for (int u = 0; u < UNROLL; u++)
            if (!STREAM) words(u);
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            if (base + u * STEP >= k) continue;  // all lanes of the warp
            if (STREAM) words(u);
#pragma unroll
            for (int four = 0; four < 4; four++) {
                const unsigned first = a[0][u].w[four], second = a[1][u].w[four];
                auto low = [](unsigned x) { return pair_of_e4m3((x & 0xffu) << 8 | (x & 0xff00u) << 16); };
                auto high = [](unsigned x) { return pair_of_e4m3((x & 0xff0000u) >> 8 | (x & 0xff000000u)); };
                const unsigned pairs[4] = {low(first), low(second), high(first), high(second)};
                const Words& x = b[u][four / 2];
                mma_bf16(c, pairs, x.w[four % 2 * 2], x.w[four % 2 * 2 + 1]);
            }
        }
        base += STEP * UNROLL;
    } while (base < k);
}

// few_add with w = codes scales [m], and without a bias.
FEW_KERNEL few_add_e4m3(const e4m3* w, const float* scales, const act* x, float* y, float* squares, int n, int k, int m) {
    const FewInput in = {x, nullptr, nullptr, nullptr, 0.f, n, k};
    const int g = threadIdx.x % 32 / 4, row = blockIdx.x * 16;
    if (squares) squares += blockIdx.x * FEW;
    few_rows(few_row(w, row + g, m, k), few_row(w, row + g + 8, m, k), in, squares, [&](int g, int b, float first, float second) {
        float sum = 0.f;
        auto add = [&](int i, float value) {
            if (i >= m) return;
            const float result = y[(size_t)b * m + i] + value * scales[i];
            y[(size_t)b * m + i] = result;
            sum += result * result;
        };
        add(row + g, first);
        add(row + g + 8, second);
        return sum;
    });
}

// few_gated with w = codes scales [2 f].
FEW_KERNEL few_gated_e4m3(const e4m3* w, const float* scales, const act* x, const float* stream, const float* norm,
                          const float* squares, float eps, act* y, int n, int k, int f) {
    const FewInput in = {x, stream, norm, squares, eps, n, k};
    const int g = threadIdx.x % 32 / 4, row = blockIdx.x * 8;
    const e4m3* gates = w + (size_t)(row + g) * k;
    few_rows(gates, gates + (size_t)f * k, in, nullptr, [&](int g, int b, float gate, float up) {
        gate *= scales[row + g], up *= scales[f + row + g];
        store(&y[(size_t)b * f + row + g], gate / (1.f + expf(-gate)) * up);
        return 0.f;
    });
}
#endif
