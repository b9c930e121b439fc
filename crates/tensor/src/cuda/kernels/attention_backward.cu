// ops/attention on a card, backward: with p_ij = exp(q_i k_j scale - lse_i), D_i = dout_i out_i and
// ds_ij = p_ij (dout_i v_j - D_i): dq_i = scale sum_j ds_ij k_j, dk_j = scale sum_i ds_ij q_i, dv_j = sum_i p_ij dout_i.
// One kernel walks over keys for dq, one over queries for dk and dv, so every sum has one order. TILE rows of each side
// at a time, one pair a thread.

#define TILE 16

// delta f32 [h, n]; one thread a row and head.
KERNEL void attention_delta(const act* out, const act* dout, float* delta, int n, int heads, int hd) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= (size_t)n * heads) return;
    float sum = 0.f;
    for (int c = 0; c < hd; c++) sum += load(out[i * hd + c]) * load(dout[i * hd + c]);
    delta[i % heads * n + i / heads] = sum;
}

// The queries' columns of d_qkv.
KERNEL void attention_dq(const act* qkv, const act* dout, const float* lse, const float* delta, act* d_qkv,
                         const unsigned* prefix, const unsigned* first, int n, int heads, int kv_heads, int hd,
                         float scale) {
    __shared__ float q[TILE][WIDEST + 1], o[TILE][WIDEST + 1], k[TILE][WIDEST + 1], v[TILE][WIDEST + 1];
    __shared__ float ds[TILE][TILE + 1];
    const int row = threadIdx.x / TILE, lane = threadIdx.x % TILE;
    const int start = blockIdx.x * TILE, count = n - start < TILE ? n - start : TILE;
    const int head = blockIdx.y, kv = head / (heads / kv_heads), i = start + row;
    const size_t width = (size_t)(heads + 2 * kv_heads) * hd;
    float log_sum = 0.f, d = 0.f;
    if (row < count) {
        for (int c = lane; c < hd; c += TILE) {
            q[row][c] = load(qkv[i * width + (size_t)head * hd + c]) * scale;
            o[row][c] = load(dout[((size_t)i * heads + head) * hd + c]);
        }
        log_sum = lse[(size_t)head * n + i];
        d = delta[(size_t)head * n + i];
    }
    float sums[WIDEST / TILE];
    for (int c = 0; c < WIDEST / TILE; c++) sums[c] = 0.f;
    for (int from = 0; from < start + count; from += TILE) {
        if (!may_see(start, count, from, TILE, prefix, first)) continue;
        const int keys = start + count - from < TILE ? start + count - from : TILE;
        __syncthreads();
        for (int at = threadIdx.x; at < keys * hd; at += THREADS) {
            const size_t place = (from + at / hd) * width + at % hd;
            k[at / hd][at % hd] = load(qkv[place + (size_t)(heads + kv) * hd]);
            v[at / hd][at % hd] = load(qkv[place + (size_t)(heads + kv_heads + kv) * hd]);
        }
        __syncthreads();
        float slope = 0.f;
        if (row < count && lane < keys && sees(i, from + lane, prefix, first)) {
            float dot = 0.f, dp = 0.f;
            for (int c = 0; c < hd; c++) {
                dot += q[row][c] * k[lane][c];
                dp += o[row][c] * v[lane][c];
            }
            slope = expf(dot - log_sum) * (dp - d) * scale;
        }
        ds[row][lane] = slope;
        __syncthreads();
        for (int p = 0, c = lane; p < WIDEST / TILE; p++, c += TILE)
            if (c < hd)
                for (int j = 0; j < keys; j++) sums[p] += ds[row][j] * k[j][c];
    }
    if (row >= count) return;
    for (int p = 0, c = lane; p < WIDEST / TILE; p++, c += TILE)
        if (c < hd) store(&d_qkv[i * width + (size_t)head * hd + c], sums[p]);
}

// The keys' and values' columns of d_qkv. Row j is seen by no row from last[j] on.
KERNEL void attention_dkv(const act* qkv, const act* dout, const float* lse, const float* delta, act* d_qkv,
                          const unsigned* prefix, const unsigned* first, const unsigned* last, int n, int heads,
                          int kv_heads, int hd, float scale) {
    __shared__ float q[TILE][WIDEST + 1], o[TILE][WIDEST + 1], k[TILE][WIDEST + 1], v[TILE][WIDEST + 1];
    __shared__ float p[TILE][TILE + 1], ds[TILE][TILE + 1];
    const int row = threadIdx.x / TILE, lane = threadIdx.x % TILE;
    const int start = blockIdx.x * TILE, count = n - start < TILE ? n - start : TILE;
    const int kv = blockIdx.y, group = heads / kv_heads, j = start + row;
    const size_t width = (size_t)(heads + 2 * kv_heads) * hd;
    const size_t k_column = (size_t)(heads + kv) * hd, v_column = (size_t)(heads + kv_heads + kv) * hd;
    if (row < count)
        for (int c = lane; c < hd; c += TILE) {
            k[row][c] = load(qkv[j * width + k_column + c]);
            v[row][c] = load(qkv[j * width + v_column + c]);
        }
    int end = 0;
    for (int r = start; r < start + count; r++) end = (int)last[r] > end ? (int)last[r] : end;
    float dk[WIDEST / TILE], dv[WIDEST / TILE];
    for (int c = 0; c < WIDEST / TILE; c++) dk[c] = dv[c] = 0.f;
    for (int head = kv * group; head < (kv + 1) * group; head++)
        for (int from = start; from < end; from += TILE) {
            const int queries = end - from < TILE ? end - from : TILE;
            if (!may_see(from, queries, start, count, prefix, first)) continue;
            __syncthreads();
            for (int at = threadIdx.x; at < queries * hd; at += THREADS) {
                const size_t i = from + at / hd;
                q[at / hd][at % hd] = load(qkv[i * width + (size_t)head * hd + at % hd]) * scale;
                o[at / hd][at % hd] = load(dout[(i * heads + head) * hd + at % hd]);
            }
            __syncthreads();
            // This thread's pair: key `row`, query `lane`.
            float weight = 0.f, slope = 0.f;
            if (row < count && lane < queries && sees(from + lane, j, prefix, first)) {
                float dot = 0.f, dp = 0.f;
                for (int c = 0; c < hd; c++) {
                    dot += q[lane][c] * k[row][c];
                    dp += o[lane][c] * v[row][c];
                }
                weight = expf(dot - lse[(size_t)head * n + from + lane]);
                slope = weight * (dp - delta[(size_t)head * n + from + lane]);
            }
            p[row][lane] = weight;
            ds[row][lane] = slope;
            __syncthreads();
            for (int a = 0, c = lane; a < WIDEST / TILE; a++, c += TILE)
                if (c < hd)
                    for (int i = 0; i < queries; i++) {
                        // q is scaled already.
                        dk[a] += ds[row][i] * q[i][c];
                        dv[a] += p[row][i] * o[i][c];
                    }
        }
    if (row >= count) return;
    for (int a = 0, c = lane; a < WIDEST / TILE; a++, c += TILE)
        if (c < hd) {
            store(&d_qkv[j * width + k_column + c], dk[a]);
            store(&d_qkv[j * width + v_column + c], dv[a]);
        }
}
