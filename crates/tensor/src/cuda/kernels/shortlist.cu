// The largest logits of a row, for the host to draw from: radix selection, a digit of 8 bits at a time.
//
// Row y of values [rows, count] is cut into segments of `per` (x). The `most` largest of a segment go to top and top_ids
// [rows, segments, most] in no order; of equal ones at the end any may be left out. Where a segment has fewer, the rest is
// minus infinity. ids, if not null, are those of the values [rows, count]; else a value's id is its place in the row.
// Not-a-number counts as minus infinity here.
//
// sums [rows, segments, 3], unless null: the largest value, the sum of exp((value - largest) inverse[row]), and how many
// values are not finite.

// Larger for larger floats.
__device__ inline unsigned order_of(float x) {
    const unsigned bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0;
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

KERNEL void shortlist(const float* values, const unsigned* ids, const float* inverse, float* top, unsigned* top_ids,
                      float* sums, int count, int per, int most) {
    __shared__ float scratch[THREADS];
    __shared__ unsigned bins[THREADS], chosen, above, place, ties;
    launch_dependents();
    wait_for_previous();
    const int start = blockIdx.x * per, size = count - start < per ? count - start : per;
    const size_t segment = (size_t)blockIdx.y * gridDim.x + blockIdx.x;
    const float* x = values + (size_t)blockIdx.y * count + start;
    if (sums) {
        float high = LEAST, sum = 0.f, broken = 0.f;
        for (int i = threadIdx.x; i < size; i += THREADS) {
            high = fmaxf(high, x[i]);
            broken += fabsf(x[i]) <= 3.402823466e38f ? 0.f : 1.f;
        }
        high = block_reduce<float, true>(high, scratch);
        broken = block_reduce<float, false>(broken, scratch);
        const float base = high == LEAST ? 0.f : high, factor = inverse[blockIdx.y];
        for (int i = threadIdx.x; i < size; i += THREADS) sum += expf((x[i] - base) * factor);
        sum = block_reduce<float, false>(sum, scratch);
        if (threadIdx.x == 0) sums[segment * 3] = high, sums[segment * 3 + 1] = sum, sums[segment * 3 + 2] = broken;
    }
    // The digits of the smallest value that is taken, the highest first; `rank` of those with its digits so far are.
    unsigned prefix = 0;
    int rank = most < size ? most : size;
    for (int shift = 24; shift >= 0; shift -= 8) {
        bins[threadIdx.x] = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < size; i += THREADS) {
            const unsigned key = order_of(x[i]);
            if (shift == 24 || key >> (shift + 8) == prefix) atomicAdd(&bins[key >> shift & 255], 1u);
        }
        __syncthreads();
        const unsigned own = bins[threadIdx.x];
        // How many are in this bin and all above it.
        for (int step = 1; step < THREADS; step *= 2) {
            const unsigned further = (int)threadIdx.x + step < THREADS ? bins[threadIdx.x + step] : 0;
            __syncthreads();
            bins[threadIdx.x] += further;
            __syncthreads();
        }
        const unsigned with = bins[threadIdx.x];
        if ((int)with >= rank && (int)(with - own) < rank) chosen = threadIdx.x, above = with - own;
        __syncthreads();
        prefix = prefix << 8 | chosen;
        rank -= (int)above;
        __syncthreads();
    }
    if (threadIdx.x == 0) place = 0, ties = 0;
    __syncthreads();
    float* to = top + segment * most;
    unsigned* to_ids = top_ids + segment * most;
    for (int i = threadIdx.x; i < size; i += THREADS) {
        const unsigned key = order_of(x[i]);
        if (key < prefix || (key == prefix && (int)atomicAdd(&ties, 1u) >= rank)) continue;
        const unsigned at = atomicAdd(&place, 1u);
        to[at] = x[i] == x[i] ? x[i] : LEAST;
        to_ids[at] = ids ? ids[(size_t)blockIdx.y * count + start + i] : (unsigned)(start + i);
    }
    for (int i = size + threadIdx.x; i < most; i += THREADS) to[i] = LEAST, to_ids[i] = 0;
}
