// ops/attention on a card (FlashAttention-2, arXiv 2307.08691). qkv [n, (heads + 2 kv_heads) hd] with q and k rotated, out
// [n, heads hd], lse f32 [heads, n]; delta f32 [heads, n] is D of the backward pass.
//
// Rows are cut into tiles. visits[starts[b]..starts[b + 1]] are the tiles that tile b has to do with (in the forward pass and
// for dq the keys that its queries see, for dk and dv the queries that see its keys), times 2, plus 1 where not every pair
// of rows is visible. A block has one tile of one head (blockIdx.x), those with most to do come first. No sum is shared
// between blocks, so bits do not depend on their order.

// What a row sees: first..=itself, and from..to.
struct Sight { int first, from, to; };

// A row beyond the end sees nothing.
__device__ inline Sight sight_of(const Sight* sights, int n, int i) {
    const Sight nothing = {0x7fffffff, 0, 0};
    return i < n ? sights[i] : nothing;
}
// Without branches.
__device__ inline bool sees(const Sight& sight, int i, int j) {
    return ((j >= sight.first) & (j <= i)) | ((j >= sight.from) & (j < sight.to));
}

// delta[h, i] = the product of out and dout over head h of row i: one warp each.
KERNEL void attention_delta(const act* out, const act* dout, float* delta, int n, int heads, int hd) {
    const size_t i = ((size_t)blockIdx.x * THREADS + threadIdx.x) / 32;
    const int lane = threadIdx.x % 32;
    const bool inside = i < (size_t)n * heads;
    float sum = 0.f;
    for (int c = lane; inside && c < hd; c += 32) sum += load(out[i * hd + c]) * load(dout[i * hd + c]);
    for (int mask = 16; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
    if (inside && lane == 0) delta[i % heads * n + i / heads] = sum;
}

// Of cuDNN's statistics, where a row of a head has its own strides, lse [heads, n]. Sequences of `length` rows lie `of_sequence`
// apart.
KERNEL void attention_lse(const float* stats, float* lse, size_t count, int n, int length, int of_sequence, int of_head,
                          int of_row) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= count) return;
    const size_t head = i / n, row = i % n;
    lse[i] = stats[row / length * of_sequence + head * of_head + row % length * of_row];
}

// qkv [n, q_row + 2 kv_row] of q [n, q_row], k and v [n, kv_row]; count values.
KERNEL void attention_join(const act* q, const act* k, const act* v, act* qkv, size_t count, int q_row, int kv_row) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= count) return;
    const size_t row = i / (q_row + 2 * kv_row);
    const int c = i % (q_row + 2 * kv_row) - q_row;
    qkv[i] = c < 0 ? q[row * q_row + c + q_row] : c < kv_row ? k[row * kv_row + c] : v[row * kv_row + c - kv_row];
}

// Any type and any hd up to 128: tiles of 32 x 32 in f32, 16 x 16 threads of 2 x 2 scores each.
#define TILE 32
#define MOST_COLUMNS 8
// The sums [a][x] of this thread: those of row 2 ty + a and column c. Unrolled, so that they stay in registers.
#define EACH_SUM(a, c, x)                                                                    \
    _Pragma("unroll") for (int a = 0; a < 2; a++)                                            \
        _Pragma("unroll") for (int x = 0, c = tx; x < MOST_COLUMNS; x++, c += 16) if (c < hd)

// Rows row0.. of `column`.. of x [n, width] into shared rows of hd + 1 floats; zeros beyond the end.
__device__ inline void load_rows(float* tile, const act* x, int n, int width, int column, int hd, int row0) {
    for (int i = threadIdx.x; i < TILE * hd; i += THREADS) {
        const int r = i / hd, c = i % hd;
        tile[r * (hd + 1) + c] = row0 + r < n ? load(x[(size_t)(row0 + r) * width + column + c]) : 0.f;
    }
}

KERNEL void attention(const act* qkv, act* out, float* lse, const unsigned* starts, const unsigned* visits,
                      const Sight* sights, int n, int heads, int kv_heads, int hd, float scale) {
    DYNAMIC_SHARED(shared);
    float *q = (float*)shared, *kv = q + TILE * (hd + 1), *p = kv + TILE * (hd + 1);
    float *top = p + TILE * (TILE + 1), *sum = top + TILE, *fade = sum + TILE;
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16, head = blockIdx.x, tile = gridDim.y - 1 - blockIdx.y;
    const int q0 = tile * TILE, width = (heads + 2 * kv_heads) * hd, kv_head = head / (heads / kv_heads);
    const Sight sight[2] = {sight_of(sights, n, q0 + ty * 2), sight_of(sights, n, q0 + ty * 2 + 1)};
    float acc[2][MOST_COLUMNS] = {};
    load_rows(q, qkv, n, width, head * hd, hd, q0);
    if (threadIdx.x < TILE) top[threadIdx.x] = LEAST, sum[threadIdx.x] = 0.f;
    for (unsigned at = starts[tile]; at < starts[tile + 1]; at++) {
        const int k0 = visits[at] / 2 * TILE, check = visits[at] % 2;
        __syncthreads();
        load_rows(kv, qkv, n, width, (heads + kv_head) * hd, hd, k0);
        __syncthreads();
        for (int a = 0; a < 2; a++)
            for (int b = 0; b < 2; b++) {
                const int i = ty * 2 + a, j = tx + 16 * b;
                float s = 0.f;
                for (int c = 0; c < hd; c++) s += q[i * (hd + 1) + c] * kv[j * (hd + 1) + c];
                p[i * (TILE + 1) + j] = check && !sees(sight[a], q0 + i, k0 + j) ? LEAST : s * scale;
            }
        __syncthreads();
        load_rows(kv, qkv, n, width, (heads + kv_heads + kv_head) * hd, hd, k0);
        if (threadIdx.x < TILE) {
            float* row = p + threadIdx.x * (TILE + 1);
            float m = top[threadIdx.x], l = 0.f;
            for (int j = 0; j < TILE; j++) m = row[j] > m ? row[j] : m;
            const float base = m == LEAST ? 0.f : m;
            for (int j = 0; j < TILE; j++) row[j] = expf(row[j] - base), l += row[j];
            fade[threadIdx.x] = expf(top[threadIdx.x] - base);
            sum[threadIdx.x] = sum[threadIdx.x] * fade[threadIdx.x] + l;
            top[threadIdx.x] = m;
        }
        __syncthreads();
        EACH_SUM(a, c, x) {
            float o = acc[a][x] * fade[ty * 2 + a];
            for (int j = 0; j < TILE; j++) o += p[(ty * 2 + a) * (TILE + 1) + j] * kv[j * (hd + 1) + c];
            acc[a][x] = o;
        }
    }
    __syncthreads();
    EACH_SUM(a, c, x) {
        const int i = ty * 2 + a;
        if (q0 + i >= n) continue;
        store(&out[((size_t)(q0 + i) * heads + head) * hd + c], acc[a][x] / sum[i]);
        if (c == 0) lse[(size_t)head * n + q0 + i] = top[i] + logf(sum[i]);
    }
}

// p and ds of one pair of tiles into shared memory, [query][key]; lse and delta are those of the head.
__device__ inline void scores(const float* q, const float* k, const float* v, const float* dout, float* p, float* ds,
                              const float* lse, const float* delta, const Sight* sights, int n, int hd, float scale, int q0,
                              int k0, int check) {
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    for (int a = 0; a < 2; a++)
        for (int b = 0; b < 2; b++) {
            const int i = ty * 2 + a, j = tx + 16 * b;
            float s = 0.f, dp = 0.f;
            for (int c = 0; c < hd; c++) {
                s += q[i * (hd + 1) + c] * k[j * (hd + 1) + c];
                dp += dout[i * (hd + 1) + c] * v[j * (hd + 1) + c];
            }
            const bool seen = !check || sees(sight_of(sights, n, q0 + i), q0 + i, k0 + j);
            const float prob = seen ? expf(s * scale - lse[q0 + i]) : 0.f;
            p[i * (TILE + 1) + j] = prob;
            ds[i * (TILE + 1) + j] = seen ? prob * (dp - delta[q0 + i]) : 0.f;
        }
}

// The queries' columns of d_qkv.
KERNEL void attention_dq(const act* qkv, const act* dout, const float* lse, const float* delta, act* d_qkv,
                         const unsigned* starts, const unsigned* visits, const Sight* sights, int n, int heads,
                         int kv_heads, int hd, float scale) {
    DYNAMIC_SHARED(shared);
    const int size = TILE * (hd + 1);
    float *q = (float*)shared, *g = q + size, *k = g + size, *v = k + size, *p = v + size, *ds = p + TILE * (TILE + 1);
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16, head = blockIdx.x, tile = gridDim.y - 1 - blockIdx.y;
    const int q0 = tile * TILE, width = (heads + 2 * kv_heads) * hd, kv_head = head / (heads / kv_heads);
    lse += (size_t)head * n, delta += (size_t)head * n;
    float acc[2][MOST_COLUMNS] = {};
    load_rows(q, qkv, n, width, head * hd, hd, q0);
    load_rows(g, dout, n, heads * hd, head * hd, hd, q0);
    for (unsigned at = starts[tile]; at < starts[tile + 1]; at++) {
        const int k0 = visits[at] / 2 * TILE;
        __syncthreads();
        load_rows(k, qkv, n, width, (heads + kv_head) * hd, hd, k0);
        load_rows(v, qkv, n, width, (heads + kv_heads + kv_head) * hd, hd, k0);
        __syncthreads();
        scores(q, k, v, g, p, ds, lse, delta, sights, n, hd, scale, q0, k0, visits[at] % 2);
        __syncthreads();
        EACH_SUM(a, c, x)
            for (int j = 0; j < TILE; j++) acc[a][x] += ds[(ty * 2 + a) * (TILE + 1) + j] * k[j * (hd + 1) + c];
    }
    EACH_SUM(a, c, x)
        if (q0 + ty * 2 + a < n) store(&d_qkv[(size_t)(q0 + ty * 2 + a) * width + head * hd + c], acc[a][x] * scale);
}

// The keys' and values' columns of d_qkv, summed over the heads that share them.
KERNEL void attention_dkv(const act* qkv, const act* dout, const float* lse, const float* delta, act* d_qkv,
                          const unsigned* starts, const unsigned* visits, const Sight* sights, int n, int heads,
                          int kv_heads, int hd, float scale) {
    DYNAMIC_SHARED(shared);
    const int size = TILE * (hd + 1);
    float *q = (float*)shared, *g = q + size, *k = g + size, *v = k + size, *p = v + size, *ds = p + TILE * (TILE + 1);
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16, kv_head = blockIdx.x, k0 = blockIdx.y * TILE;
    const int width = (heads + 2 * kv_heads) * hd, group = heads / kv_heads;
    float dk[2][MOST_COLUMNS] = {}, dv[2][MOST_COLUMNS] = {};
    load_rows(k, qkv, n, width, (heads + kv_head) * hd, hd, k0);
    load_rows(v, qkv, n, width, (heads + kv_heads + kv_head) * hd, hd, k0);
    for (int head = kv_head * group; head < (kv_head + 1) * group; head++)
        for (unsigned at = starts[blockIdx.y]; at < starts[blockIdx.y + 1]; at++) {
            const int q0 = visits[at] / 2 * TILE;
            const size_t row = (size_t)head * n;
            __syncthreads();
            load_rows(q, qkv, n, width, head * hd, hd, q0);
            load_rows(g, dout, n, heads * hd, head * hd, hd, q0);
            __syncthreads();
            scores(q, k, v, g, p, ds, lse + row, delta + row, sights, n, hd, scale, q0, k0, visits[at] % 2);
            __syncthreads();
            EACH_SUM(a, c, x)
                for (int i = 0; i < TILE; i++) {
                    dv[a][x] += p[i * (TILE + 1) + ty * 2 + a] * g[i * (hd + 1) + c];
                    dk[a][x] += ds[i * (TILE + 1) + ty * 2 + a] * q[i * (hd + 1) + c];
                }
        }
    EACH_SUM(a, c, x) {
        const int j = k0 + ty * 2 + a;
        if (j >= n) continue;
        const size_t at = (size_t)j * width + (heads + kv_head) * hd + c;
        store(&d_qkv[at], dk[a][x] * scale);
        store(&d_qkv[at + kv_heads * hd], dv[a][x]);
    }
}
