// Attention of many rows of a sequence to its past and to each other, on tensor cores: attention_mma.cu's forward pass with
// keys and values in pages. A block has 64 rows of one head (x); tiles[4 y..] are its first row, how many rows there are, the
// position of the first, and where its sequence's list of pages begins.
#ifndef ACT_F32
// Begins to copy 64 keys or values, from position k0 on, into a shared tile; zeros from `length` on.
template <int HD>
__device__ inline void load_pages(bf16* tile, const bf16* from, size_t stride, const unsigned* table, int k0, int length) {
    const int every = 32 * WARPS / (HD / 8), r0 = threadIdx.x / (HD / 8), c = threadIdx.x % (HD / 8) * 8;
    from += c, tile += c;
#pragma unroll
    for (int r = r0, i = 0; i < ROWS / every; i++, r += every) {
        const int at = k0 + r;
        const bool inside = at < length;
        copy_async(tile + r * (HD + 8), from + (inside ? table[at / PAGE] * stride + (size_t)(at % PAGE) * HD : 0), inside);
    }
}

template <int HD>
__device__ void paged_mma(const bf16* queries, const bf16* pool, size_t stride, size_t layer, const unsigned* tiles,
                          const unsigned* pages, bf16* out, int heads, int kv_heads, float scale) {
    DYNAMIC_SHARED(shared);
    const int P = HD + 8;
    // Values take the place of the queries, which are read into registers before.
    bf16 *q = (bf16*)shared, *v = q, *k = q + ROWS * P;
    const int lane = threadIdx.x % 32, own = threadIdx.x / 32 * 16, head = blockIdx.x;
    const unsigned* tile = tiles + 4 * (gridDim.y - 1 - blockIdx.y);
    const int row0 = tile[0], rows = tile[1], position = tile[2], length = position + rows;
    const unsigned* table = pages + tile[3];
    const bf16* keys = pool + layer + (size_t)(head / (heads / kv_heads)) * 2 * PAGE * HD;
    const int at = position + own + lane / 4;  // of this lane's first row; the other one is 8 further on
    const float base2 = scale * LOG2_E;
    load_tile<HD>(q, queries, row0 + rows, heads * HD, head * HD, row0);
    load_pages<HD>(k, keys, stride, table, 0, length);
    finish_copies();
    __syncthreads();
    unsigned qa[HD / 16][4];
#pragma unroll
    for (int c = 0; c < HD / 16; c++) load_a(qa[c], q, P, own, c * 16);
    float acc[HD / 8][4] = {}, top[2] = {LEAST, LEAST}, sum[2] = {0.f, 0.f};
    for (int k0 = 0; k0 < length; k0 += ROWS) {
        finish_copies();
        __syncthreads();  // the keys are there, the place of the values is free
        load_pages<HD>(v, keys + PAGE * HD, stride, table, k0, length);
        float s[ROWS / 8][4] = {};
        add_products<HD / 16, ROWS / 8>(s, qa, k, P);
        finish_copies();
        __syncthreads();  // the values are there, the place of the keys is free
        if (k0 + ROWS < length) load_pages<HD>(k, keys, stride, table, k0 + ROWS, length);
        if (k0 + ROWS - 1 > position) {
#pragma unroll
            for (int t = 0; t < ROWS / 8; t++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const bool seen = k0 + t * 8 + lane % 4 * 2 + e % 2 <= at + e / 2 * 8;
                    s[t][e] = seen ? s[t][e] : LEAST;
                }
        }
        add_tile<HD>(acc, top, sum, s, v, base2);
    }
    float inverse[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        for (int mask = 1; mask < 4; mask *= 2) sum[h] += shuffle_xor(sum[h], mask);
        inverse[h] = 1.f / sum[h];
    }
    store_rows<HD>(out, row0 + rows, heads * HD, head * HD, row0 + own, acc, inverse);
}

#define PAGED(name, HD, BLOCKS)                                                                                         \
    KERNEL void __launch_bounds__(32 * WARPS, BLOCKS)                                                                   \
        name(const bf16* queries, const bf16* pool, size_t stride, size_t layer, const unsigned* tiles,                 \
             const unsigned* pages, bf16* out, int heads, int kv_heads, float scale) {                                  \
        paged_mma<HD>(queries, pool, stride, layer, tiles, pages, out, heads, kv_heads, scale);                         \
    }
PAGED(paged_mma_64, 64, 4)
PAGED(paged_mma_128, 128, 3)
#endif
