// ops/attention on a card (FlashAttention-2, arXiv 2307.08691). qkv [n, (heads + 2 kv_heads) hd], queries and keys rotated
// already; out [n, heads hd], lse f32 [heads, n]. Row i sees the rows first[i]..=i and prefix[2i]..prefix[2i + 1].
//
// Rows are cut into tiles. visits[starts[b]..starts[b + 1]] are the tiles that tile b has to do with (in the forward pass and
// for dq the keys that its queries see, for dk and dv the queries that see its keys), times 2, plus 1 where not every pair
// of rows is visible. No sum is shared between blocks, so bits do not depend on their order.

__device__ inline bool visible(const unsigned* first, const unsigned* prefix, int n, int i, int j) {
    if (i >= n || j >= n) return false;
    return (j >= (int)first[i] && j <= i) || (j >= (int)prefix[2 * i] && j < (int)prefix[2 * i + 1]);
}

// delta[h, i] = sum of dout out over head h of row i: one thread each.
KERNEL(attention_delta)(const real* out, const real* dout, float* delta, int n, int heads, int hd) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= (size_t)n * heads) return;
    float sum = 0.f;
    for (int c = 0; c < hd; c++) sum += load(out[i * hd + c]) * load(dout[i * hd + c]);
    delta[i % heads * n + i / heads] = sum;
}

// ---- Any head_dim up to 128, any type: tiles of 32 x 32 in f32, 16 x 16 threads of 2 x 2 scores each.
#define TILE 32
#define MOST_COLUMNS 8

// Rows first.. of `column`.. of x [n, width] into shared rows of hd + 1 floats; zeros beyond the end.
__device__ inline void load_rows(float* tile, const real* x, int n, int width, int column, int hd, int first) {
    for (int i = threadIdx.x; i < TILE * hd; i += THREADS) {
        const int r = i / hd, c = i % hd;
        tile[r * (hd + 1) + c] = first + r < n ? load(x[(size_t)(first + r) * width + column + c]) : 0.f;
    }
}

KERNEL(attention_forward)(const real* qkv, real* out, float* lse, const unsigned* starts, const unsigned* visits,
                          const unsigned* first, const unsigned* prefix, int n, int heads, int kv_heads, int hd, float scale) {
    DYNAMIC_SHARED(shared);
    float *q = (float*)shared, *kv = q + TILE * (hd + 1), *p = kv + TILE * (hd + 1);
    float *top = p + TILE * (TILE + 1), *sum = top + TILE, *fade = sum + TILE;
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16, head = blockIdx.y, q0 = blockIdx.x * TILE;
    const int width = (heads + 2 * kv_heads) * hd, kv_head = head / (heads / kv_heads);
    float acc[2][MOST_COLUMNS] = {};
    load_rows(q, qkv, n, width, head * hd, hd, q0);
    if (threadIdx.x < TILE) top[threadIdx.x] = LEAST, sum[threadIdx.x] = 0.f;
    for (unsigned at = starts[blockIdx.x]; at < starts[blockIdx.x + 1]; at++) {
        const int k0 = visits[at] / 2 * TILE, check = visits[at] % 2;
        __syncthreads();
        load_rows(kv, qkv, n, width, (heads + kv_head) * hd, hd, k0);
        __syncthreads();
        for (int a = 0; a < 2; a++)
            for (int b = 0; b < 2; b++) {
                const int i = ty * 2 + a, j = tx + 16 * b;
                float s = 0.f;
                for (int c = 0; c < hd; c++) s += q[i * (hd + 1) + c] * kv[j * (hd + 1) + c];
                p[i * (TILE + 1) + j] = check && !visible(first, prefix, n, q0 + i, k0 + j) ? LEAST : s * scale;
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
        for (int a = 0; a < 2; a++)
            for (int x = 0; x < MOST_COLUMNS; x++) {
                const int i = ty * 2 + a, c = tx + 16 * x;
                if (c >= hd) break;
                float o = acc[a][x] * fade[i];
                for (int j = 0; j < TILE; j++) o += p[i * (TILE + 1) + j] * kv[j * (hd + 1) + c];
                acc[a][x] = o;
            }
    }
    __syncthreads();
    for (int a = 0; a < 2; a++) {
        const int i = ty * 2 + a;
        if (q0 + i >= n) continue;
        for (int x = 0; x < MOST_COLUMNS && tx + 16 * x < hd; x++)
            store(&out[((size_t)(q0 + i) * heads + head) * hd + tx + 16 * x], acc[a][x] / sum[i]);
        if (tx == 0) lse[(size_t)head * n + q0 + i] = top[i] + logf(sum[i]);
    }
}

// p and ds of one pair of tiles into shared memory, [query][key].
__device__ inline void scores(const float* q, const float* k, const float* v, const float* dout, float* p, float* ds,
                              const float* lse, const float* delta, const unsigned* first, const unsigned* prefix, int n,
                              int hd, float scale, int q0, int k0, int check) {
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    for (int a = 0; a < 2; a++)
        for (int b = 0; b < 2; b++) {
            const int i = ty * 2 + a, j = tx + 16 * b;
            float s = 0.f, dp = 0.f;
            for (int c = 0; c < hd; c++) {
                s += q[i * (hd + 1) + c] * k[j * (hd + 1) + c];
                dp += dout[i * (hd + 1) + c] * v[j * (hd + 1) + c];
            }
            const bool seen = q0 + i < n && !(check && !visible(first, prefix, n, q0 + i, k0 + j));
            const float prob = seen ? expf(s * scale - lse[q0 + i]) : 0.f;
            p[i * (TILE + 1) + j] = prob;
            ds[i * (TILE + 1) + j] = seen ? prob * (dp - delta[q0 + i]) : 0.f;
        }
}

KERNEL(attention_dq)(const real* qkv, const real* dout, const float* lse, const float* delta, real* dqkv,
                     const unsigned* starts, const unsigned* visits, const unsigned* first, const unsigned* prefix, int n,
                     int heads, int kv_heads, int hd, float scale) {
    DYNAMIC_SHARED(shared);
    const int size = TILE * (hd + 1);
    float *q = (float*)shared, *g = q + size, *k = g + size, *v = k + size, *p = v + size, *ds = p + TILE * (TILE + 1);
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16, head = blockIdx.y, q0 = blockIdx.x * TILE;
    const int width = (heads + 2 * kv_heads) * hd, kv_head = head / (heads / kv_heads);
    float acc[2][MOST_COLUMNS] = {};
    load_rows(q, qkv, n, width, head * hd, hd, q0);
    load_rows(g, dout, n, heads * hd, head * hd, hd, q0);
    for (unsigned at = starts[blockIdx.x]; at < starts[blockIdx.x + 1]; at++) {
        const int k0 = visits[at] / 2 * TILE;
        __syncthreads();
        load_rows(k, qkv, n, width, (heads + kv_head) * hd, hd, k0);
        load_rows(v, qkv, n, width, (heads + kv_heads + kv_head) * hd, hd, k0);
        __syncthreads();
        scores(q, k, v, g, p, ds, lse + (size_t)head * n, delta + (size_t)head * n, first, prefix, n, hd, scale, q0, k0,
               visits[at] % 2);
        __syncthreads();
        for (int a = 0; a < 2; a++)
            for (int x = 0; x < MOST_COLUMNS && tx + 16 * x < hd; x++)
                for (int j = 0; j < TILE; j++)
                    acc[a][x] += ds[(ty * 2 + a) * (TILE + 1) + j] * k[j * (hd + 1) + tx + 16 * x];
    }
    for (int a = 0; a < 2; a++)
        for (int x = 0; x < MOST_COLUMNS && tx + 16 * x < hd && q0 + ty * 2 + a < n; x++)
            store(&dqkv[(size_t)(q0 + ty * 2 + a) * width + head * hd + tx + 16 * x], acc[a][x] * scale);
}

KERNEL(attention_dkv)(const real* qkv, const real* dout, const float* lse, const float* delta, real* dqkv,
                      const unsigned* starts, const unsigned* visits, const unsigned* first, const unsigned* prefix, int n,
                      int heads, int kv_heads, int hd, float scale) {
    DYNAMIC_SHARED(shared);
    const int size = TILE * (hd + 1);
    float *q = (float*)shared, *g = q + size, *k = g + size, *v = k + size, *p = v + size, *ds = p + TILE * (TILE + 1);
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16, kv_head = blockIdx.y, k0 = blockIdx.x * TILE;
    const int width = (heads + 2 * kv_heads) * hd, group = heads / kv_heads;
    float dk[2][MOST_COLUMNS] = {}, dv[2][MOST_COLUMNS] = {};
    load_rows(k, qkv, n, width, (heads + kv_head) * hd, hd, k0);
    load_rows(v, qkv, n, width, (heads + kv_heads + kv_head) * hd, hd, k0);
    for (int head = kv_head * group; head < (kv_head + 1) * group; head++)
        for (unsigned at = starts[blockIdx.x]; at < starts[blockIdx.x + 1]; at++) {
            const int q0 = visits[at] / 2 * TILE;
            __syncthreads();
            load_rows(q, qkv, n, width, head * hd, hd, q0);
            load_rows(g, dout, n, heads * hd, head * hd, hd, q0);
            __syncthreads();
            scores(q, k, v, g, p, ds, lse + (size_t)head * n, delta + (size_t)head * n, first, prefix, n, hd, scale, q0,
                   k0, visits[at] % 2);
            __syncthreads();
            for (int a = 0; a < 2; a++)
                for (int x = 0; x < MOST_COLUMNS && tx + 16 * x < hd; x++)
                    for (int i = 0; i < TILE; i++) {
                        const int j = ty * 2 + a, c = tx + 16 * x;
                        dv[a][x] += p[i * (TILE + 1) + j] * g[i * (hd + 1) + c];
                        dk[a][x] += ds[i * (TILE + 1) + j] * q[i * (hd + 1) + c];
                    }
        }
    for (int a = 0; a < 2; a++)
        for (int x = 0; x < MOST_COLUMNS && tx + 16 * x < hd && k0 + ty * 2 + a < n; x++) {
            const size_t at = (size_t)(k0 + ty * 2 + a) * width + (heads + kv_head) * hd + tx + 16 * x;
            store(&dqkv[at], dk[a][x] * scale);
            store(&dqkv[at + kv_heads * hd], dv[a][x]);
        }
}
