// Products of at most 8 rows of activations x [n, k] with a matrix w [m, k], x w^T, for steps of generation: one pass over
// the weights in loads of 16 bytes, sums in f32, and what follows done by the block that has the sums. k is a multiple of
// what 16 bytes hold.
//
// The rows of x are given, or are those of the residual stream [n, k] f32, normalised on the way: x norm r, with r of the sums of
// squares that the kernel before has left, [k / 16, 8]: of 16 values of each row. That saves a kernel, but every block reads
// more, so it pays for one or two rows. The products are of x norm, rounded; r is a factor of their sums.
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

// The rows of the stream times norm into shared memory, in the type of activations: [n, k]; and the sums of their squares, a
// part for each warp. For the whole block.
__device__ inline void few_stage(act* rows, float (*sums)[FEW], const FewInput& in) {
    const int EACH = 16 / sizeof(act), own = threadIdx.x % FEW;
    float sum = 0.f;
#pragma unroll 4
    for (int i = threadIdx.x / FEW; i < in.k / 16; i += 32 * FEW_WARPS / FEW)
        sum += own < in.n ? in.squares[i * FEW + own] : 0.f;
    for (int mask = FEW; mask < 32; mask *= 2) sum += shuffle_xor(sum, mask);
    if (threadIdx.x % 32 < FEW) sums[threadIdx.x / 32][own] = sum;
    for (int i = threadIdx.x * EACH; i < in.n * in.k; i += 32 * FEW_WARPS * EACH) {
        const float *x = in.stream + i, *w = in.norm + i % in.k;
        Words v[EACH / 4], f[EACH / 4], result;
#pragma unroll
        for (int e = 0; e < EACH / 4; e++) v[e] = load_words(x + 4 * e), f[e] = load_words(w + 4 * e);
        auto value = [&](int e) { return __uint_as_float(v[e / 4].w[e % 4]) * __uint_as_float(f[e / 4].w[e % 4]); };
#pragma unroll
        for (int e = 0; e < 4; e++)
#ifdef ACT_F32
            result.w[e] = __float_as_uint(value(e));
#else
            result.w[e] = pack(value(2 * e), value(2 * e + 1));
#endif
        *(Words*)(rows + i) = result;
    }
    __syncthreads();
}

// Waits until what the products read is there.
template <bool STREAM> __device__ inline void few_begin(act* staged, float (*squares)[FEW], const FewInput& in) {
    wait_for_previous();
    if (STREAM) few_stage(staged, squares, in);
}

// Sums c of 16 rows of the matrix: this lane's are w0 and w1, null beyond the matrix. The weights of a turn are asked for before
// anything is waited for, those of the first before the kernel in front has ended. `staged` and `squares` are room in shared
// memory for what few_stage makes.
#ifdef ACT_F32
template <bool STREAM>
__device__ inline void few_sums(float* c, const act* w0, const act* w1, const FewInput& in, act* staged,
                                float (*squares)[FEW]) {
    const int UNROLL = 4, STEP = 16 * FEW_WARPS, t = threadIdx.x % 4, k = in.k;
    const Words zero = {};
    float s[2][FEW] = {};
    bool ready = false;
    int base = threadIdx.x / 32 * 16;
    do {
        Words a[2][UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            const int at = base + u * STEP + 4 * t;
            a[0][u] = at < k && w0 ? load_once(w0 + at) : zero;
            a[1][u] = at < k && w1 ? load_once(w1 + at) : zero;
        }
        if (!ready) few_begin<STREAM>(staged, squares, in), ready = true;
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            const int at = base + u * STEP + 4 * t;
            if (at >= k) continue;
#pragma unroll
            for (int b = 0; b < FEW; b++) {
                if (b >= in.n) continue;
                const Words v = *(const Words*)((STREAM ? staged : in.x) + (size_t)b * k + at);
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    s[0][b] += __uint_as_float(a[0][u].w[e]) * __uint_as_float(v.w[e]);
                    s[1][b] += __uint_as_float(a[1][u].w[e]) * __uint_as_float(v.w[e]);
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
template <bool STREAM>
__device__ inline void few_sums(float* c, const act* w0, const act* w1, const FewInput& in, act* staged,
                                float (*squares)[FEW]) {
    const int UNROLL = 8, STEP = 32 * FEW_WARPS, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, k = in.k;
    const Words zero = {};
    const act* row = (STREAM ? staged : in.x) + (size_t)g * k;
    bool ready = false;
    int base = threadIdx.x / 32 * 32;
    do {
        Words a[2][UNROLL], b[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            const int at = base + u * STEP + 8 * t;
            a[0][u] = at < k && w0 ? load_once(w0 + at) : zero;
            a[1][u] = at < k && w1 ? load_once(w1 + at) : zero;
        }
        if (!ready) few_begin<STREAM>(staged, squares, in), ready = true;
        auto words = [&](int u) {
            const int at = base + u * STEP + 8 * t;
            return at < k && g < in.n ? *(const Words*)(row + at) : zero;
        };
        // What is in shared memory need not be asked for early.
#pragma unroll
        for (int u = 0; u < UNROLL; u++)
            if (!STREAM) b[u] = words(u);
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            if (base + u * STEP >= k) continue;  // all lanes of the warp
            if (STREAM) b[u] = words(u);
#pragma unroll
            for (int half = 0; half < 4; half += 2) {
                const unsigned pairs[4] = {a[0][u].w[half], a[1][u].w[half], a[0][u].w[half + 1], a[1][u].w[half + 1]};
                mma_bf16(c, pairs, b[u].w[half], b[u].w[half + 1]);
            }
        }
        base += STEP * UNROLL;
    } while (base < k);
}
#endif

#ifndef ACT_F32
// The same with weights in 8 bits: e4m3.cu.
struct e4m3;
template <bool STREAM>
__device__ void few_sums(float* c, const e4m3* w0, const e4m3* w1, const FewInput& in, act* staged, float (*squares)[FEW]);
#endif

// Calls end(g, b, first, second) with the sums of rows g and g + 8 of the block's 16 and row b of x. What it answers for the 8
// values of g is added to squares[b], if there are any.
template <typename W, typename End>
__device__ inline void few_rows(const W* w0, const W* w1, const FewInput& in, float* squares, const End& end) {
    __shared__ float sums[FEW_WARPS][32][4], of_stream[FEW_WARPS][FEW];
    DYNAMIC_SHARED(staged);
    launch_dependents();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float c[4] = {};
    if (in.stream) few_sums<true>(c, w0, w1, in, (act*)staged, of_stream);
    else few_sums<false>(c, w0, w1, in, nullptr, nullptr);
#pragma unroll
    for (int e = 0; e < 4; e++) sums[warp][lane][e] = c[e];
    __syncthreads();
    if (threadIdx.x >= 8 * FEW) return;
    const int b = threadIdx.x / 8, g = threadIdx.x % 8, of = g * 4 + b / 2, column = b % 2;
    float answer = 0.f;
    if (b < in.n) {
        float first = 0.f, second = 0.f, square = 0.f;
#pragma unroll
        for (int w = 0; w < FEW_WARPS; w++) {
            first += sums[w][of][column];
            second += sums[w][of][2 + column];
            if (in.stream) square += of_stream[w][b];
        }
        if (in.stream) {
            const float r = 1.f / sqrtf(square / (float)in.k + in.eps);
            first *= r, second *= r;
        }
        answer = end(g, b, first, second);
    }
    if (!squares) return;
    for (int mask = 1; mask < 8; mask *= 2) answer += shuffle_xor(answer, mask);
    if (g == 0 && b < in.n) squares[b] = answer;
}

// Row `index` of a matrix of m rows, or null.
template <typename W>
__device__ inline const W* few_row(const W* w, int index, int m, int k) {
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
