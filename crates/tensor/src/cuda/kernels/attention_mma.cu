// attention.cu on tensor cores: bf16, head_dim 64 or 128, tiles of 64 x 64, four warps of which each owns 16 rows of its
// block's tile. Scores and their gradients stay in registers: the output fragments of one product are the left-hand
// fragments of the next. Probabilities and ds are rounded to bf16 before they are multiplied.
#ifndef ACT_F32
#define ROWS 64
#define WARPS 4
#define LOG2_E 1.4426950408889634f

// Begins to copy rows row0.. of `column`.. of x [n, width] into a shared tile; zeros beyond the end.
template <int HD>
__device__ inline void load_tile(bf16* tile, const bf16* x, int n, int width, int column, int row0) {
    // A thread has the same columns in every copy.
    const int every = 32 * WARPS / (HD / 8), r0 = threadIdx.x / (HD / 8), c = threadIdx.x % (HD / 8) * 8;
    x += column + c, tile += c;
#pragma unroll
    for (int r = r0, i = 0; i < ROWS / every; i++, r += every) {
        const bool inside = row0 + r < n;
        copy_async(tile + r * (HD + 8), x + (size_t)(inside ? row0 + r : 0) * width, inside);
    }
}

// Writes fragments [16, HD] times a factor to rows row0.. of `column`.. of x [n, width].
template <int HD>
__device__ inline void store_rows(bf16* x, int n, int width, int column, int row0, float (*acc)[4], const float* factor) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = row0 + lane / 4 + 8 * half;
        if (row >= n) continue;
        unsigned* to = (unsigned*)(x + (size_t)row * width + column) + lane % 4;
#pragma unroll
        for (int t = 0; t < HD / 8; t++)
            to[t * 4] = pack(acc[t][2 * half] * factor[half], acc[t][2 * half + 1] * factor[half]);
    }
}

// Scores [16, 8 T] of pairs that do not see each other become minus infinity: queries are `row` and the one 8 after it, keys
// begin at j0.
template <int T>
__device__ inline void mask_keys(float (*s)[4], const Sight* sight, int row, int j0) {
#pragma unroll
    for (int t = 0; t < T; t++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const bool seen = sees(sight[e / 2], row + e / 2 * 8, j0 + t * 8 + threadIdx.x % 4 * 2 + e % 2);
            s[t][e] = seen ? s[t][e] : LEAST;
        }
}

// Scores s [16, 64] of the next tile of keys join a softmax under way: its output, largest scores and sums of weights.
template <int HD>
__device__ inline void add_tile(float (*acc)[4], float* top, float* sum, float (*s)[4], const bf16* v, float base2) {
    const int P = HD + 8;
    float fade[2], base[2], high[2] = {top[0], top[1]};
#pragma unroll
    for (int t = 0; t < ROWS / 8; t++)
#pragma unroll
        for (int e = 0; e < 4; e++) high[e / 2] = fmaxf(high[e / 2], s[t][e]);
#pragma unroll
    for (int h = 0; h < 2; h++) {
#pragma unroll
        for (int mask = 1; mask < 4; mask *= 2) high[h] = fmaxf(high[h], shuffle_xor(high[h], mask));
        base[h] = high[h] == LEAST ? 0.f : high[h] * base2;
        fade[h] = power_of_2(top[h] * base2 - base[h]);
        top[h] = high[h];
        sum[h] *= fade[h];
    }
#pragma unroll
    for (int t = 0; t < ROWS / 8; t++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            s[t][e] = power_of_2(s[t][e] * base2 - base[e / 2]), sum[e / 2] += s[t][e];
#pragma unroll
    for (int t = 0; t < HD / 8; t++)
#pragma unroll
        for (int e = 0; e < 4; e++) acc[t][e] *= fade[e / 2];
#pragma unroll
    for (int c = 0; c < ROWS / 16; c++) {
        unsigned a[4];
        as_a(a, s + 2 * c);
#pragma unroll
        for (int t = 0; t < HD / 16; t++) {
            unsigned b[4];
            load_b_columns(b, v, P, c * 16, t * 16);
            mma_bf16(acc[2 * t], a, b[0], b[1]);
            mma_bf16(acc[2 * t + 1], a, b[2], b[3]);
        }
    }
}

// Values are fetched while scores are computed, the next keys while values are multiplied.
template <int HD>
__device__ void forward_mma(const bf16* qkv, bf16* out, float* lse, const unsigned* starts, const unsigned* visits,
                            const Sight* sights, int n, int heads, int kv_heads, float scale) {
    DYNAMIC_SHARED(tiles);
    const int P = HD + 8;
    // Values take the place of the queries, which are read into registers before.
    bf16 *q = (bf16*)tiles, *v = q, *k = q + ROWS * P;
    const int lane = threadIdx.x % 32, own = threadIdx.x / 32 * 16, head = blockIdx.x, tile = gridDim.y - 1 - blockIdx.y;
    const int q0 = tile * ROWS, width = (heads + 2 * kv_heads) * HD, kv_head = head / (heads / kv_heads);
    const int row = q0 + own + lane / 4;
    const float base2 = scale * LOG2_E;
    const unsigned end = starts[tile + 1];
    unsigned at = starts[tile];
    load_tile<HD>(q, qkv, n, width, head * HD, q0);
    load_tile<HD>(k, qkv, n, width, (heads + kv_head) * HD, visits[at] / 2 * ROWS);
    const Sight sight[2] = {sight_of(sights, n, row), sight_of(sights, n, row + 8)};
    finish_copies();
    __syncthreads();
    unsigned qa[HD / 16][4];
#pragma unroll
    for (int c = 0; c < HD / 16; c++) load_a(qa[c], q, P, own, c * 16);
    float acc[HD / 8][4] = {}, top[2] = {LEAST, LEAST}, sum[2] = {0.f, 0.f};
    for (; at < end; at++) {
        const int k0 = visits[at] / 2 * ROWS, check = visits[at] % 2;
        finish_copies();
        __syncthreads();  // the keys are there, the place of the values is free
        load_tile<HD>(v, qkv, n, width, (heads + kv_heads + kv_head) * HD, k0);
        float s[ROWS / 8][4] = {};
        add_products<HD / 16, ROWS / 8>(s, qa, k, P);
        finish_copies();
        __syncthreads();  // the values are there, the place of the keys is free
        if (at + 1 < end) load_tile<HD>(k, qkv, n, width, (heads + kv_head) * HD, visits[at + 1] / 2 * ROWS);
        if (check) mask_keys<ROWS / 8>(s, sight, row, k0);
        add_tile<HD>(acc, top, sum, s, v, base2);
    }
    float inverse[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        for (int mask = 1; mask < 4; mask *= 2) sum[h] += shuffle_xor(sum[h], mask);
        inverse[h] = 1.f / sum[h];
        if (lane % 4 == 0 && row + 8 * h < n) lse[(size_t)head * n + row + 8 * h] = top[h] * scale + logf(sum[h]);
    }
    store_rows<HD>(out, n, heads * HD, head * HD, q0 + own, acc, inverse);
}

// s += a b^T and dp += c d^T, of rows `own`.. of a and c and rows `part`.. of b and d: 16 x 32 of each.
template <int HD>
__device__ inline void both_products(float (*s)[4], float (*dp)[4], const bf16* a, const bf16* b, const bf16* c, const bf16* d,
                                     int own, int part) {
    const int P = HD + 8;
#pragma unroll
    for (int k = 0; k < HD; k += 16) {
        unsigned left[4], right[4];
        load_a(left, a, P, own, k);
        load_a(right, c, P, own, k);
#pragma unroll
        for (int t = 0; t < 2; t++) {
            unsigned rows[4];
            load_b_rows(rows, b, P, part + t * 16, k);
            mma_bf16(s[2 * t], left, rows[0], rows[1]);
            mma_bf16(s[2 * t + 1], left, rows[2], rows[3]);
            load_b_rows(rows, d, P, part + t * 16, k);
            mma_bf16(dp[2 * t], right, rows[0], rows[1]);
            mma_bf16(dp[2 * t + 1], right, rows[2], rows[3]);
        }
    }
}

// acc [16, HD] += a b, of C A fragments over 16 C rows of tile b, from row0 on.
template <int HD, int C>
__device__ inline void times_rows(float (*acc)[4], unsigned (*a)[4], const bf16* b, int row0) {
    const int P = HD + 8;
#pragma unroll
    for (int c = 0; c < C; c++)
#pragma unroll
        for (int t = 0; t < HD / 16; t++) {
            unsigned right[4];
            load_b_columns(right, b, P, row0 + c * 16, t * 16);
            mma_bf16(acc[2 * t], a[c], right[0], right[1]);
            mma_bf16(acc[2 * t + 1], a[c], right[2], right[3]);
        }
}

// Rows of queries are this block's; keys pass by. The next keys are fetched while all of these are at work, the next values
// from when these have been multiplied.
template <int HD>
__device__ void dq_mma(const bf16* qkv, const bf16* dout, const float* lse, const float* delta, bf16* d_qkv,
                       const unsigned* starts, const unsigned* visits, const Sight* sights, int n, int heads, int kv_heads,
                       float scale) {
    DYNAMIC_SHARED(tiles);
    const int P = HD + 8;
    bf16 *q = (bf16*)tiles, *g = q + ROWS * P, *v = g + ROWS * P, *k = v + ROWS * P, *next_k = k + ROWS * P;
    const int lane = threadIdx.x % 32, own = threadIdx.x / 32 * 16, head = blockIdx.x, tile = gridDim.y - 1 - blockIdx.y;
    const int q0 = tile * ROWS, width = (heads + 2 * kv_heads) * HD, kv_head = head / (heads / kv_heads);
    const int of_k = (heads + kv_head) * HD, of_v = of_k + kv_heads * HD, row = q0 + own + lane / 4;
    const float base2 = scale * LOG2_E;
    const unsigned end = starts[tile + 1];
    unsigned at = starts[tile];
    load_tile<HD>(q, qkv, n, width, head * HD, q0);
    load_tile<HD>(g, dout, n, heads * HD, head * HD, q0);
    load_tile<HD>(k, qkv, n, width, of_k, visits[at] / 2 * ROWS);
    load_tile<HD>(v, qkv, n, width, of_v, visits[at] / 2 * ROWS);
    const Sight sight[2] = {sight_of(sights, n, row), sight_of(sights, n, row + 8)};
    float acc[HD / 8][4] = {}, of_lse[2] = {0.f, 0.f}, of_delta[2] = {0.f, 0.f};
#pragma unroll
    for (int h = 0; h < 2; h++)
        if (row + 8 * h < n) {
            of_lse[h] = lse[(size_t)head * n + row + 8 * h] * LOG2_E;
            of_delta[h] = delta[(size_t)head * n + row + 8 * h];
        }
    for (; at < end; at++) {
        const int k0 = visits[at] / 2 * ROWS, check = visits[at] % 2, next = at + 1 < end ? visits[at + 1] / 2 * ROWS : -1;
        finish_copies();
        __syncthreads();  // keys and values are there, the place of the next keys is free
        if (next >= 0) load_tile<HD>(next_k, qkv, n, width, of_k, next);
        unsigned ds[ROWS / 16][4];
#pragma unroll
        for (int part = 0; part < 2; part++) {
            float s[4][4] = {}, dp[4][4] = {};
            both_products<HD>(s, dp, q, k, g, v, own, part * 32);
            if (check) mask_keys<4>(s, sight, row, k0 + part * 32);
#pragma unroll
            for (int t = 0; t < 4; t++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    s[t][e] = power_of_2(s[t][e] * base2 - of_lse[e / 2]) * (dp[t][e] - of_delta[e / 2]);
            as_a(ds[2 * part], s);
            as_a(ds[2 * part + 1], s + 2);
        }
        __syncthreads();  // the place of the values is free
        if (next >= 0) load_tile<HD>(v, qkv, n, width, of_v, next);
        times_rows<HD, ROWS / 16>(acc, ds, k, 0);
        bf16* done = k;
        k = next_k, next_k = done;
    }
    const float factor[2] = {scale, scale};
    store_rows<HD>(d_qkv, n, width, head * HD, q0 + own, acc, factor);
}

// What a block knows of the queries of a tile.
struct Queries { float lse[ROWS], delta[ROWS]; Sight sight[ROWS]; };

__device__ inline void load_queries(Queries* to, const float* lse, const float* delta, const Sight* sights, int n, int row0) {
    if (threadIdx.x >= ROWS) return;
    const int row = row0 + threadIdx.x;
    to->lse[threadIdx.x] = row < n ? lse[row] * LOG2_E : 0.f;
    to->delta[threadIdx.x] = row < n ? delta[row] : 0.f;
    to->sight[threadIdx.x] = sight_of(sights, n, row);
}

// Rows of keys are this block's; the queries of all heads that share them pass by. Scores are transposed: [key][query]. The
// next queries are fetched while all of these are at work, the next gradients from when these have been multiplied.
template <int HD>
__device__ void dkv_mma(const bf16* qkv, const bf16* dout, const float* lse, const float* delta, bf16* d_qkv,
                        const unsigned* starts, const unsigned* visits, const Sight* sights, int n, int heads, int kv_heads,
                        float scale) {
    DYNAMIC_SHARED(tiles);
    const int P = HD + 8;
    bf16 *k = (bf16*)tiles, *v = k + ROWS * P, *g = v + ROWS * P, *q = g + ROWS * P, *next_q = q + ROWS * P;
    Queries *of = (Queries*)(next_q + ROWS * P), *next_of = of + 1;
    const int lane = threadIdx.x % 32, own = threadIdx.x / 32 * 16, kv_head = blockIdx.x, k0 = blockIdx.y * ROWS;
    const int width = (heads + 2 * kv_heads) * HD, group = heads / kv_heads;
    const float base2 = scale * LOG2_E;
    const unsigned first = starts[blockIdx.y], end = starts[blockIdx.y + 1];
    int head = kv_head * group;
    load_tile<HD>(k, qkv, n, width, (heads + kv_head) * HD, k0);
    load_tile<HD>(v, qkv, n, width, (heads + kv_heads + kv_head) * HD, k0);
    load_tile<HD>(q, qkv, n, width, head * HD, visits[first] / 2 * ROWS);
    load_tile<HD>(g, dout, n, heads * HD, head * HD, visits[first] / 2 * ROWS);
    load_queries(of, lse + (size_t)head * n, delta + (size_t)head * n, sights, n, visits[first] / 2 * ROWS);
    float dk[HD / 8][4] = {}, dv[HD / 8][4] = {};
    for (unsigned at = first; head < (kv_head + 1) * group;) {
        const int q0 = visits[at] / 2 * ROWS, check = visits[at] % 2;
        // Where the visits of a head end, those of the next begin.
        const bool turn = ++at == end;
        at = turn ? first : at, head += turn;
        const bool more = head < (kv_head + 1) * group;
        const int next = visits[at] / 2 * ROWS;
        finish_copies();
        __syncthreads();  // queries and gradients are there, the place of the next queries is free
        if (more) {
            load_tile<HD>(next_q, qkv, n, width, head * HD, next);
            load_queries(next_of, lse + (size_t)head * n, delta + (size_t)head * n, sights, n, next);
        }
        unsigned da[ROWS / 16][4];
#pragma unroll
        for (int part = 0; part < 2; part++) {
            float s[4][4] = {}, dp[4][4] = {};
            both_products<HD>(s, dp, k, q, v, g, own, part * 32);
            // A thread's queries: this one and the next, and so 8 further on.
            const int r0 = part * 32 + lane % 4 * 2;
            if (check)
#pragma unroll
                for (int t = 0; t < 4; t++)
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        const int r = r0 + t * 8 + e % 2, j = k0 + own + lane / 4 + e / 2 * 8;
                        s[t][e] = sees(of->sight[r], q0 + r, j) ? s[t][e] : LEAST;
                    }
#pragma unroll
            for (int t = 0; t < 4; t++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const int r = r0 + t * 8 + e % 2;
                    s[t][e] = power_of_2(s[t][e] * base2 - of->lse[r]);
                    dp[t][e] = s[t][e] * (dp[t][e] - of->delta[r]);
                }
            unsigned pa[2][4];
#pragma unroll
            for (int c = 0; c < 2; c++) as_a(pa[c], s + 2 * c), as_a(da[2 * part + c], dp + 2 * c);
            times_rows<HD, 2>(dv, pa, g, part * 32);
        }
        __syncthreads();  // the place of the gradients is free
        if (more) load_tile<HD>(g, dout, n, heads * HD, head * HD, next);
        times_rows<HD, ROWS / 16>(dk, da, q, 0);
        bf16* done = q;
        q = next_q, next_q = done;
        Queries* of_done = of;
        of = next_of, next_of = of_done;
    }
    const float by_scale[2] = {scale, scale}, one[2] = {1.f, 1.f};
    store_rows<HD>(d_qkv, n, width, (heads + kv_head) * HD, k0 + own, dk, by_scale);
    store_rows<HD>(d_qkv, n, width, (heads + kv_heads + kv_head) * HD, k0 + own, dv, one);
}

// The arguments are those of attention.cu. BLOCKS at once on a multiprocessor: one more would spill registers in the inner
// loops (as it is, at most 24 bytes on an sm_90).
#define FORWARD(name, HD, BLOCKS)                                                                                        \
    KERNEL void __launch_bounds__(32 * WARPS, BLOCKS)                                                                    \
        name(const bf16* qkv, bf16* out, float* lse, const unsigned* starts, const unsigned* visits,                     \
             const Sight* sights, int n, int heads, int kv_heads, int, float scale) {                                    \
        forward_mma<HD>(qkv, out, lse, starts, visits, sights, n, heads, kv_heads, scale);                               \
    }
#define BACKWARD(name, body, HD, BLOCKS)                                                                                 \
    KERNEL void __launch_bounds__(32 * WARPS, BLOCKS)                                                                    \
        name(const bf16* qkv, const bf16* dout, const float* lse, const float* delta, bf16* d_qkv,                       \
             const unsigned* starts, const unsigned* visits, const Sight* sights, int n, int heads, int kv_heads, int,   \
             float scale) {                                                                                              \
        body<HD>(qkv, dout, lse, delta, d_qkv, starts, visits, sights, n, heads, kv_heads, scale);                       \
    }
FORWARD(attention_64, 64, 4)
FORWARD(attention_128, 128, 3)
BACKWARD(attention_dq_64, dq_mma, 64, 4)
BACKWARD(attention_dq_128, dq_mma, 128, 2)
BACKWARD(attention_dkv_64, dkv_mma, 64, 4)
BACKWARD(attention_dkv_128, dkv_mma, 128, 2)
#endif
