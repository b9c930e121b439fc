// Attention of single rows to a long past, bf16, heads of 64 or 128 columns ("flash decoding"): a block (x) has up to 4 heads
// that share keys and values, and the part of the past (y % splits) of one row (rows[y / splits]). The last of the parts to
// be done puts them together, in their order, so that the bits do not depend on who is last.
#ifndef ACT_F32
const int SHARING = 4, DECODE_WARPS = 4;
// A part has at least so many pages.
const int LEAST_PAGES = 4;

__device__ inline void unpack_words(float* x, const Words& words) {
#pragma unroll
    for (int e = 0; e < 4; e++) {
        x[2 * e] = __uint_as_float(words.w[e] << 16);
        x[2 * e + 1] = __uint_as_float(words.w[e] & 0xffff0000u);
    }
}

// A softmax under way: sums [HD] of values, then the largest score times log2(e), then the sum of weights.
// Puts `count` of them together, `apart` floats apart, in order: column c of the result. Those of OTHERS are other blocks'.
template <int HD, bool OTHERS>
__device__ inline float join(const float* parts, int count, size_t apart, int c, float& top, float& sum) {
    auto at = [&](int i, int c) { return OTHERS ? load_fresh(parts + i * apart + c) : parts[i * apart + c]; };
    top = LEAST;
    for (int i = 0; i < count; i++) top = fmaxf(top, at(i, HD));
    float value = 0.f;
    sum = 0.f;
    const float base = top == LEAST ? 0.f : top;
    for (int i = 0; i < count; i++) {
        const float weight = power_of_2(at(i, HD) - base);
        value += weight * at(i, c);
        sum += weight * at(i, HD + 1);
    }
    return value;
}

// partial: [rows, blocks of x, splits, SHARING, HD + 2]; counters, 0 before and after: [rows, blocks of x].
template <int HD>
__device__ void decode_part(const bf16* q, const bf16* pool, size_t stride, size_t layer, const unsigned* rows,
                            const unsigned* positions, const unsigned* tables, const unsigned* pages, float* partial,
                            unsigned* counters, bf16* out, int heads, int kv_heads, int splits, float scale) {
    const int LANES = HD / 8, SLOTS = 32 / LANES, DEEP = 4, KEYS = DEEP * SLOTS;  // lanes of a key, keys of a load, of a step
    __shared__ float parts[DECODE_WARPS * SLOTS][SHARING][HD + 2];
    __shared__ int is_last;
    launch_dependents();
    const int group = heads / kv_heads, chunks = (group + SHARING - 1) / SHARING;
    const int kv_head = blockIdx.x / chunks, own = blockIdx.x % chunks * SHARING, head = kv_head * group + own;
    const int count = group - own < SHARING ? group - own : SHARING;
    const int row = rows[blockIdx.y / splits], split = blockIdx.y % splits;
    const int length = (int)(positions[row] + 1);  // 0 for NOWHERE
    const int in_use = (length + PAGE - 1) / PAGE;
    int each = (in_use + splits - 1) / splits;
    if (each < LEAST_PAGES) each = LEAST_PAGES;
    const int active = length == 0 ? 1 : (in_use + each - 1) / each;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, slot = lane / LANES, c = lane % LANES * 8;
    const int end = (split + 1) * each * PAGE < length ? (split + 1) * each * PAGE : length;
    const bf16* keys = pool + layer + (size_t)kv_head * 2 * PAGE * HD + c;
    const unsigned* table = pages + tables[row];
    // What each warp reads first is on its way while the kernel in front stores this position's.
    for (int i = 0; i < DEEP; i++) {
        const int at = split * each * PAGE + warp * KEYS + i * SLOTS + slot;
        if (at >= end) break;
        const bf16* key = keys + table[at / PAGE] * stride + (size_t)(at % PAGE) * HD;
        prefetch(key), prefetch(key + PAGE * HD);
    }
    wait_for_previous();
    if (split >= active) return;
    float query[SHARING][8], acc[SHARING][8] = {}, top[SHARING], sum[SHARING] = {};
    const Words zero = {};
#pragma unroll
    for (int h = 0; h < SHARING; h++) {
        unpack_words(query[h], h < count ? load_words(q + ((size_t)row * heads + head + h) * HD + c) : zero);
#pragma unroll
        for (int e = 0; e < 8; e++) query[h][e] *= scale * LOG2_E;
        top[h] = LEAST;
    }
    for (int first = split * each * PAGE + warp * KEYS; first < end; first += DECODE_WARPS * KEYS) {
        Words k[DEEP], v[DEEP];
#pragma unroll
        for (int i = 0; i < DEEP; i++) {
            const int at = first + i * SLOTS + slot;
            const bf16* key = keys + (at < end ? table[at / PAGE] * stride + (size_t)(at % PAGE) * HD : 0);
            k[i] = at < end ? load_written_once(key) : zero;
            v[i] = at < end ? load_written_once(key + PAGE * HD) : zero;
        }
        float score[SHARING][DEEP];
#pragma unroll
        for (int i = 0; i < DEEP; i++) {
            float x[8];
            unpack_words(x, k[i]);
#pragma unroll
            for (int h = 0; h < SHARING; h++) {
                float dot = 0.f;
#pragma unroll
                for (int e = 0; e < 8; e++) dot += query[h][e] * x[e];
#pragma unroll
                for (int mask = 1; mask < LANES; mask *= 2) dot += shuffle_xor(dot, mask);
                score[h][i] = first + i * SLOTS + slot < end ? dot : LEAST;
            }
        }
        float fade[SHARING];
#pragma unroll
        for (int h = 0; h < SHARING; h++) {
            float high = top[h];
#pragma unroll
            for (int i = 0; i < DEEP; i++) high = fmaxf(high, score[h][i]);
            const float base = high == LEAST ? 0.f : high;
            fade[h] = power_of_2(top[h] - base);
            top[h] = high;
            sum[h] *= fade[h];
#pragma unroll
            for (int i = 0; i < DEEP; i++) score[h][i] = power_of_2(score[h][i] - base), sum[h] += score[h][i];
#pragma unroll
            for (int e = 0; e < 8; e++) acc[h][e] *= fade[h];
        }
#pragma unroll
        for (int i = 0; i < DEEP; i++) {
            float x[8];
            unpack_words(x, v[i]);
#pragma unroll
            for (int h = 0; h < SHARING; h++)
#pragma unroll
                for (int e = 0; e < 8; e++) acc[h][e] += score[h][i] * x[e];
        }
    }
#pragma unroll
    for (int h = 0; h < SHARING; h++) {
        float* part = parts[warp * SLOTS + slot][h];
#pragma unroll
        for (int e = 0; e < 8; e++) part[c + e] = acc[h][e];
        if (c == 0) part[HD] = top[h], part[HD + 1] = sum[h];
    }
    __syncthreads();
    const size_t block = (size_t)(blockIdx.y / splits) * gridDim.x + blockIdx.x, apart = SHARING * (HD + 2);
    float* mine = partial + (block * splits + split) * apart;
    bf16* to = out + ((size_t)row * heads + head) * HD;
    for (int i = threadIdx.x; i < count * HD; i += 32 * DECODE_WARPS) {
        const int h = i / HD, column = i % HD;
        float high, total;
        const float value = join<HD, false>(parts[0][h], DECODE_WARPS * SLOTS, apart, column, high, total);
        if (active == 1) {
            store(&to[i], total > 0.f ? value / total : 0.f);
        } else {
            mine[h * (HD + 2) + column] = value;
            if (column == 0) mine[h * (HD + 2) + HD] = high, mine[h * (HD + 2) + HD + 1] = total;
        }
    }
    if (active == 1) return;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        is_last = atomicAdd(&counters[block], 1u) == (unsigned)active - 1;
        if (is_last) counters[block] = 0;
    }
    __syncthreads();
    if (!is_last) return;
    __threadfence();
    for (int i = threadIdx.x; i < count * HD; i += 32 * DECODE_WARPS) {
        float high, total;
        const float* all = partial + block * splits * apart + i / HD * (HD + 2);
        const float value = join<HD, true>(all, active, apart, i % HD, high, total);
        store(&to[i], value / total);
    }
}

#define DECODE(name, HD)                                                                                                 \
    KERNEL void __launch_bounds__(32 * DECODE_WARPS, 4)                                                                  \
        name(const bf16* q, const bf16* pool, size_t stride, size_t layer, const unsigned* rows,                         \
             const unsigned* positions, const unsigned* tables, const unsigned* pages, float* partial,                   \
             unsigned* counters, bf16* out, int heads, int kv_heads, int splits, float scale) {                          \
        decode_part<HD>(q, pool, stride, layer, rows, positions, tables, pages, partial, counters, out, heads, kv_heads, \
                        splits, scale);                                                                                  \
    }
DECODE(paged_decode_64, 64)
DECODE(paged_decode_128, 128)
#endif
