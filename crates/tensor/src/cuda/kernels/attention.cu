// ops/attention on a card, forward (FlashAttention, arXiv 2307.08691): a block of THREADS takes QUERIES rows of one head
// and walks over tiles of KEYS rows with a running softmax, in f32. LANES threads share a row. Not made for tensor cores.
//
// qkv [n, (h + 2 kv) hd] with q and k rotated, out [n, h hd], lse f32 [h, n]. Row i sees rows prefix[2 i]..prefix[2 i + 1]
// and first[i]..=i. hd is at most WIDEST.

#define QUERIES 16
#define LANES 16
#define KEYS 32
#define WIDEST 128
#define PER_LANE (WIDEST / LANES)
#define LOWEST -3.402823466e38f

__device__ inline bool sees(int i, int j, const unsigned* prefix, const unsigned* first) {
    return (j >= (int)first[i] && j <= i) || (j >= (int)prefix[2 * i] && j < (int)prefix[2 * i + 1]);
}

// Whether any of rows i..i + count sees any of rows j..j + KEYS or fewer; true may be wrong, false is not.
__device__ inline bool may_see(int i, int count, int j, int keys, const unsigned* prefix, const unsigned* first) {
    for (int r = i; r < i + count; r++)
        if ((j + keys > (int)first[r] && j <= r) || (j + keys > (int)prefix[2 * r] && j < (int)prefix[2 * r + 1]))
            return true;
    return false;
}

KERNEL void attention(const act* qkv, act* out, float* lse, const unsigned* prefix, const unsigned* first, int n,
                      int heads, int kv_heads, int hd, float scale) {
    __shared__ float q[QUERIES][WIDEST + 1], k[KEYS][WIDEST + 1], v[KEYS][WIDEST + 1], s[QUERIES][KEYS + 1];
    const int row = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    const int start = blockIdx.x * QUERIES, count = n - start < QUERIES ? n - start : QUERIES;
    const int head = blockIdx.y, kv = head / (heads / kv_heads), i = start + row;
    const size_t width = (size_t)(heads + 2 * kv_heads) * hd;
    if (row < count)
        for (int c = lane; c < hd; c += LANES) q[row][c] = load(qkv[i * width + (size_t)head * hd + c]) * scale;
    float sums[PER_LANE], top = LOWEST, total = 0.f;
    for (int c = 0; c < PER_LANE; c++) sums[c] = 0.f;
    for (int from = 0; from < start + count; from += KEYS) {
        // The same for all threads of the block, so they meet at the barriers.
        if (!may_see(start, count, from, KEYS, prefix, first)) continue;
        const int keys = start + count - from < KEYS ? start + count - from : KEYS;
        __syncthreads();
        for (int at = threadIdx.x; at < keys * hd; at += THREADS) {
            const size_t place = (from + at / hd) * width + at % hd;
            k[at / hd][at % hd] = load(qkv[place + (size_t)(heads + kv) * hd]);
            v[at / hd][at % hd] = load(qkv[place + (size_t)(heads + kv_heads + kv) * hd]);
        }
        __syncthreads();
        for (int j = lane; j < KEYS; j += LANES) {
            float dot = LOWEST;
            if (row < count && j < keys && sees(i, from + j, prefix, first)) {
                dot = 0.f;
                for (int c = 0; c < hd; c++) dot += q[row][c] * k[j][c];
            }
            s[row][j] = dot;
        }
        __syncthreads();
        float highest = top;
        for (int j = 0; j < KEYS; j++) highest = s[row][j] > highest ? s[row][j] : highest;
        __syncthreads();
        for (int j = lane; j < KEYS; j += LANES) s[row][j] = s[row][j] == LOWEST ? 0.f : expf(s[row][j] - highest);
        __syncthreads();
        const float shrink = top == LOWEST ? 0.f : expf(top - highest);
        top = highest;
        total *= shrink;
        for (int j = 0; j < KEYS; j++) total += s[row][j];
        for (int p = 0, c = lane; p < WIDEST / LANES; p++, c += LANES)
            if (c < hd) {
                float sum = sums[p] * shrink;
                for (int j = 0; j < keys; j++) sum += s[row][j] * v[j][c];
                sums[p] = sum;
            }
    }
    if (row >= count) return;
    for (int p = 0, c = lane; p < WIDEST / LANES; p++, c += LANES)
        if (c < hd)
            store(&out[((size_t)i * heads + head) * hd + c], sums[p] / total);
    if (lane == 0) lse[(size_t)head * n + i] = top + logf(total);
}
