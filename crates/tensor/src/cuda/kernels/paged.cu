// Generation: rows of a batch, the pages that hold keys and values, and attention to them.
//
// The pool of pages is [pages][layers][kv_heads][keys, values][16 positions][hd]; `stride` numbers lie between two pages,
// `layer` is where a layer begins in one. Rows of a batch have positions, places (16 page + slot; NOWHERE is for rows that
// fill a batch up) and begin their list of pages at tables[row] of `pages`. The residual stream x [n, d] is f32.
const int PAGE = 16;
const unsigned NOWHERE = 0xffffffffu;

// x [n, d] = rows ids of the table: blocks (x) of THREADS columns of a row (y). squares [d / 16, 8], unless null, are the sums of
// the squares of 16 values of each row, as few_rows.cu wants them; d is a multiple of 16 then.
KERNEL void embed_rows(const act* table, const unsigned* ids, float* x, float* squares, int d) {
    launch_dependents();
    const int j = blockIdx.x * THREADS + threadIdx.x, row = blockIdx.y;
    const float value = j < d ? load(table[(size_t)ids[row] * d + j]) : 0.f;
    if (j < d) x[(size_t)row * d + j] = value;
    if (!squares) return;
    float sum = value * value;
    for (int mask = 1; mask < 16; mask *= 2) sum += shuffle_xor(sum, mask);
    if (j < d && j % 16 == 0) squares[j / 16 * 8 + row] = sum;
}

// y [i] = x[row] / sqrt(mean(x[row]^2) + eps) w with row = rows[i], or i if rows is null: a block a row.
KERNEL void norm_rows(const float* x, const unsigned* rows, const float* w, act* y, int d, float eps) {
    __shared__ float scratch[THREADS];
    launch_dependents();
    const float* from = x + (size_t)(rows ? rows[blockIdx.x] : blockIdx.x) * d;
    wait_for_previous();
    float squares = 0.f;
    for (int j = threadIdx.x; j < d; j += THREADS) squares += from[j] * from[j];
    const float r = 1.f / sqrtf(block_reduce<float, false>(squares, scratch) / (float)d + eps);
    for (int j = threadIdx.x; j < d; j += THREADS) store(&y[(size_t)blockIdx.x * d + j], from[j] * r * w[j]);
}

// y += bias in every row of d.
KERNEL void add_bias(float* y, const float* bias, size_t values, int d) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < values) y[i] += bias[i % d];
}

// Values j and j + hd / 2 of a head of row b: with their biases, if there are any, and turned by the row's angles (cosines
// [hd / 2], then sines) if it is a query or key. Queries go to q [n, heads hd], keys and values to the row's page.
__device__ inline void put_pair(float low, float high, int head, int j, int b, const float* bias, const float* angles,
                                const unsigned* places, act* q, act* pool, size_t stride, size_t layer, int heads,
                                int kv_heads, int hd) {
    const int half = hd / 2;
    if (bias) low += bias[head * hd + j], high += bias[head * hd + j + half];
    if (head < heads + kv_heads) {
        const float cos = angles[(size_t)b * hd + j], sin = angles[(size_t)b * hd + half + j];
        const float turned = low * cos - high * sin;
        high = high * cos + low * sin;
        low = turned;
    }
    act* to = q + ((size_t)b * heads + head) * hd;
    if (head >= heads) {
        const unsigned place = places[b];
        if (place == NOWHERE) return;
        const int of_kv = head - heads, kv_head = of_kv % kv_heads, value = of_kv / kv_heads;
        to = pool + place / PAGE * stride + layer + ((size_t)(2 * kv_head + value) * PAGE + place % PAGE) * hd;
    }
    store(&to[j], low);
    store(&to[j + half], high);
}

// The same for qkv f32 [n, (heads + 2 kv_heads) hd]; one thread a pair.
KERNEL void put_rows(const float* qkv, const float* bias, const float* angles, const unsigned* places, act* q, act* pool,
                     size_t stride, size_t layer, size_t pairs, int heads, int kv_heads, int hd) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= pairs) return;
    const int half = hd / 2, all = heads + 2 * kv_heads, j = i % half, head = i / half % all, b = i / half / all;
    const float* from = qkv + ((size_t)b * all + head) * hd + j;
    put_pair(from[0], from[half], head, j, b, bias, angles, places, q, pool, stride, layer, heads, kv_heads, hd);
}

// Attention of any type and width: a block has one head (x) of one row (y) and goes through the past 256 positions at a
// time. Shared memory: hd floats.
KERNEL void paged_attention(const act* q, const act* pool, size_t stride, size_t layer, const unsigned* rows,
                            const unsigned* positions, const unsigned* tables, const unsigned* pages, act* out, int heads,
                            int kv_heads, int hd, float scale) {
    DYNAMIC_SHARED(shared);
    __shared__ float scratch[THREADS], weights[THREADS];
    float* query = (float*)shared;
    launch_dependents();
    const int head = blockIdx.x, row = rows[blockIdx.y];
    const int length = (int)(positions[row] + 1);  // 0 for NOWHERE
    const act *from = q + ((size_t)row * heads + head) * hd, *heads_pool = pool + layer + (size_t)(head / (heads / kv_heads)) * 2 * PAGE * hd;
    const unsigned* table = pages + tables[row];
    wait_for_previous();
    for (int c = threadIdx.x; c < hd; c += THREADS) query[c] = load(from[c]) * scale;
    __syncthreads();
    // A thread has columns threadIdx.x and 256 further on of the output.
    float top = LEAST, sum = 0.f, acc[2] = {};
    for (int first = 0; first < length; first += THREADS) {
        const int at = first + threadIdx.x;
        float score = LEAST;
        if (at < length) {
            const act* key = heads_pool + table[at / PAGE] * stride + (size_t)(at % PAGE) * hd;
            score = 0.f;
            for (int c = 0; c < hd; c++) score += query[c] * load(key[c]);
        }
        const float high = fmaxf(top, block_reduce<float, true>(score, scratch)), fade = expf(top - high);
        const float weight = expf(score - high);
        weights[threadIdx.x] = weight;
        sum = sum * fade + block_reduce<float, false>(weight, scratch);  // weights are there after its barriers
        top = high;
        const int count = length - first < THREADS ? length - first : THREADS;
#pragma unroll
        for (int x = 0; x < 2; x++) {
            const int c = threadIdx.x + x * THREADS;
            if (c >= hd) continue;
            acc[x] *= fade;
            for (int i = 0; i < count; i++) {
                const act* value = heads_pool + table[(first + i) / PAGE] * stride + (size_t)(PAGE + (first + i) % PAGE) * hd;
                acc[x] += weights[i] * load(value[c]);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int x = 0; x < 2; x++) {
        const int c = threadIdx.x + x * THREADS;
        if (c < hd) store(&out[((size_t)row * heads + head) * hd + c], length > 0 ? acc[x] / sum : 0.f);
    }
}
