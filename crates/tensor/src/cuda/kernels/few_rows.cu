// Products of at most 8 rows of activations x [n, k] with a matrix w [m, k], x w^T, for steps of generation: one pass over
// the weights in loads of 16 bytes, sums in f32, and what follows done by the block that has the sums. k is a multiple of
// what 16 bytes hold.
//
// The rows of x are given, or are those of the residual stream x [n, k] f32, normalised on the way: x r w with r of the sums of
// squares that the kernel before has left, [k / 16, 8]: of 16 values of each row. That saves a kernel, but every block reads
// more, so it pays for one or two rows.
//
// A block has 16 rows of the matrix, its 8 warps every eighth step of 64 bytes each. Their sums are added in the order of
// the warps, so a row of x has the same bits whatever stands beside it. Lanes hold what mma.m16n8k16 asks of them, columns
// permuted: with g = lane / 4 and t = lane % 4 a lane reads 16 bytes at column 8 t of rows g and g + 8 of the matrix and of
// row g of x, and gets the sums of rows g, g + 8 and of rows 2 t, 2 t + 1 of x.
const int FEW = 8, FEW_WARPS = 8;

// What the products read.
struct FewInput {
    const act* x;        // [n, k], unless there is a stream
    const float* stream; // or null
    const float *norm, *squares;
    float eps;
    int n, k;
};

// Sums of the squares of the stream's rows, a part for each warp; for the whole block.
__device__ inline void few_squares(float (*sums)[FEW], const FewInput& in) {
    const int b = threadIdx.x % FEW, groups = in.k / 16;
    float sum = 0.f;
    for (int i = threadIdx.x / FEW; i < groups; i += 32 * FEW_WARPS / FEW) sum += b < in.n ? in.squares[i * FEW + b] : 0.f;
    for (int mask = FEW; mask < 32; mask *= 2) sum += shuffle_xor(sum, mask);
    if (threadIdx.x % 32 < FEW) sums[threadIdx.x / 32][b] = sum;
    __syncthreads();
}
// 1 / sqrt(mean of squares + eps) of a row.
__device__ inline float few_scale(const float (*sums)[FEW], const FewInput& in, int row) {
    float all = 0.f;
#pragma unroll
    for (int warp = 0; warp < FEW_WARPS; warp++) all += sums[warp][row];
    return 1.f / sqrtf(all / (float)in.k + in.eps);
}

// Sums c of 16 rows of the matrix: this lane's are w0 and w1, null beyond the matrix. The weights are asked for before anything
// is waited for.
#ifdef ACT_F32
__device__ inline void few_sums(float* c, const act* w0, const act* w1, const FewInput& in) {
    const int UNROLL = 4, STEP = 16 * FEW_WARPS, t = threadIdx.x % 4, k = in.k;
    __shared__ float squares[FEW_WARPS][FEW];
    const Words zero = {};
    float s[2][FEW] = {}, scale[FEW];
    int base = threadIdx.x / 32 * 16;
    const int start = base;
    do {
        Words a[2][UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            const int at = base + u * STEP + 4 * t;
            a[0][u] = at < k && w0 ? load_once(w0 + at) : zero;
            a[1][u] = at < k && w1 ? load_once(w1 + at) : zero;
        }
        if (in.stream && base == start) {
            few_squares(squares, in);
#pragma unroll
            for (int b = 0; b < FEW; b++) scale[b] = few_scale(squares, in, b);
        }
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            const int at = base + u * STEP + 4 * t;
            if (at >= k) continue;
            const Words norm = in.stream ? load_words(in.norm + at) : zero;
#pragma unroll
            for (int b = 0; b < FEW; b++) {
                if (b >= in.n) continue;
                const Words v = load_words((in.stream ? in.stream : in.x) + (size_t)b * k + at);
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    float x = __uint_as_float(v.w[e]);
                    if (in.stream) x *= scale[b] * __uint_as_float(norm.w[e]);
                    s[0][b] += __uint_as_float(a[0][u].w[e]) * x;
                    s[1][b] += __uint_as_float(a[1][u].w[e]) * x;
                }
            }
        }
        base += STEP * UNROLL;
    } while (base < k);
#pragma unroll
    for (int b = 0; b < FEW; b++) {
        if (b >= in.n) continue;
#pragma unroll
        for (int row = 0; row < 2; row++) {
            for (int mask = 1; mask < 4; mask *= 2) s[row][b] += shuffle_xor(s[row][b], mask);
            if (b / 2 == t) c[2 * row + b % 2] = s[row][b];
        }
    }
}
#else
// 8 values of a row of the stream, normalised and rounded.
__device__ inline Words few_normed(const float* x, const float* norm, float scale) {
    Words result;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const Words v = load_words(x + 4 * half), w = load_words(norm + 4 * half);
        auto value = [&](int e) { return __uint_as_float(v.w[e]) * scale * __uint_as_float(w.w[e]); };
        result.w[2 * half] = pack(value(0), value(1));
        result.w[2 * half + 1] = pack(value(2), value(3));
    }
    return result;
}

__device__ inline void few_sums(float* c, const act* w0, const act* w1, const FewInput& in) {
    const int UNROLL = 8, STEP = 32 * FEW_WARPS, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, k = in.k;
    __shared__ float squares[FEW_WARPS][FEW];
    const Words zero = {};
    const size_t row = (size_t)g * k;
    float scale = 0.f;
    int base = threadIdx.x / 32 * 32;
    const int start = base;
    do {
        Words a[2][UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            const int at = base + u * STEP + 8 * t;
            a[0][u] = at < k && w0 ? load_once(w0 + at) : zero;
            a[1][u] = at < k && w1 ? load_once(w1 + at) : zero;
        }
        if (in.stream && base == start) few_squares(squares, in), scale = few_scale(squares, in, g);
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            if (base + u * STEP >= k) continue;  // all lanes of the warp
            const int at = base + u * STEP + 8 * t;
            Words b = zero;
            if (at < k && g < in.n) {
                if (in.stream) b = few_normed(in.stream + row + at, in.norm + at, scale);
                else b = load_words(in.x + row + at);
            }
#pragma unroll
            for (int half = 0; half < 4; half += 2) {
                const unsigned pairs[4] = {a[0][u].w[half], a[1][u].w[half], a[0][u].w[half + 1], a[1][u].w[half + 1]};
                mma_bf16(c, pairs, b.w[half], b.w[half + 1]);
            }
        }
        base += STEP * UNROLL;
    } while (base < k);
}
#endif

// Calls end(g, b, first, second) with the sums of rows g and g + 8 of the block's 16 and row b of x. What it answers for the 8
// values of g is added to squares[b], if there are any.
template <typename End>
__device__ inline void few_rows(const act* w0, const act* w1, const FewInput& in, float* squares, const End& end) {
    __shared__ float sums[FEW_WARPS][32][4];
    const int lane = threadIdx.x % 32;
    float c[4] = {};
    few_sums(c, w0, w1, in);
#pragma unroll
    for (int e = 0; e < 4; e++) sums[threadIdx.x / 32][lane][e] = c[e];
    __syncthreads();
    if (threadIdx.x >= 8 * FEW) return;
    const int b = threadIdx.x / 8, g = threadIdx.x % 8, of = g * 4 + b / 2, column = b % 2;
    float answer = 0.f;
    if (b < in.n) {
        float first = 0.f, second = 0.f;
#pragma unroll
        for (int warp = 0; warp < FEW_WARPS; warp++) {
            first += sums[warp][of][column];
            second += sums[warp][of][2 + column];
        }
        answer = end(g, b, first, second);
    }
    if (!squares) return;
    for (int mask = 1; mask < 8; mask *= 2) answer += shuffle_xor(answer, mask);
    if (g == 0 && b < in.n) squares[b] = answer;
}

// Row `index` of a matrix of m rows, or null.
__device__ inline const act* few_row(const act* w, int index, int m, int k) {
    return index < m ? w + (size_t)index * k : nullptr;
}

#define FEW_KERNEL KERNEL void __launch_bounds__(32 * FEW_WARPS, 2)

// y [n, m] = x w^T in f32.
FEW_KERNEL few_store(const act* w, const act* x, const float* stream, const float* norm, const float* squares, float eps,
                     float* y, int n, int k, int m) {
    const FewInput in = {x, stream, norm, squares, eps, n, k};
    const int g = threadIdx.x % 32 / 4, row = blockIdx.x * 16;
    few_rows(few_row(w, row + g, m, k), few_row(w, row + g + 8, m, k), in, nullptr, [&](int g, int b, float first, float second) {
        if (row + g < m) y[(size_t)b * m + row + g] = first;
        if (row + g + 8 < m) y[(size_t)b * m + row + g + 8] = second;
        return 0.f;
    });
}

// y [n, m] += x w^T + bias, f32 but for x and w; bias [m] may be null. squares, if not null, are those of the new y.
FEW_KERNEL few_add(const act* w, const act* x, const float* bias, float* y, float* squares, int n, int k, int m) {
    const FewInput in = {x, nullptr, nullptr, nullptr, 0.f, n, k};
    const int g = threadIdx.x % 32 / 4, row = blockIdx.x * 16;
    if (squares) squares += blockIdx.x * FEW;
    few_rows(few_row(w, row + g, m, k), few_row(w, row + g + 8, m, k), in, squares, [&](int g, int b, float first, float second) {
        float sum = 0.f;
        auto add = [&](int i, float value) {
            if (i >= m) return;
            const float result = y[(size_t)b * m + i] + value + (bias ? bias[i] : 0.f);
            y[(size_t)b * m + i] = result;
            sum += result * result;
        };
        add(row + g, first);
        add(row + g + 8, second);
        return sum;
    });
}

// y [n, f] = silu(x gate^T) (x up^T), with w = [gate; up] of 2 f rows; f is a multiple of 8.
FEW_KERNEL few_gated(const act* w, const act* x, const float* stream, const float* norm, const float* squares, float eps,
                     act* y, int n, int k, int f) {
    const FewInput in = {x, stream, norm, squares, eps, n, k};
    const int g = threadIdx.x % 32 / 4, row = blockIdx.x * 8;
    const act* gates = w + (size_t)(row + g) * k;
    few_rows(gates, gates + (size_t)f * k, in, nullptr, [&](int g, int b, float gate, float up) {
        store(&y[(size_t)b * f + row + g], gate / (1.f + expf(-gate)) * up);
        return 0.f;
    });
}

// Queries, keys and values of the rows, to where put_pair puts them; the head's width is a multiple of 16.
FEW_KERNEL few_qkv(const act* w, const act* x, const float* stream, const float* norm, const float* squares, float eps,
                   const float* bias, const float* angles, const unsigned* places, act* q, act* pool, size_t stride,
                   size_t layer, int n, int k, int heads, int kv_heads, int hd) {
    const FewInput in = {x, stream, norm, squares, eps, n, k};
    const int half = hd / 2, tiles = half / 8, head = blockIdx.x / tiles, j = blockIdx.x % tiles * 8;
    const act* first = w + (size_t)(head * hd + j + threadIdx.x % 32 / 4) * k;
    few_rows(first, first + (size_t)half * k, in, nullptr, [&](int g, int b, float low, float high) {
        put_pair(low, high, head, j + g, b, bias, angles, places, q, pool, stride, layer, heads, kv_heads, hd);
        return 0.f;
    });
}
