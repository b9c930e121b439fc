// kernels/adamw.rs on a card: f32 master weights, moments and gradients of one length n; the bf16 copy that the
// products read is written in the same pass (copy may be null), and the gradient cleared. `clip` is read from the card's
// memory, so that the host need not wait for the norm; where it is negative the step is left out, except that the
// gradient is cleared.

KERNEL void adamw(float* w, float* g, float* m, float* v, bf16* copy, const float* clip, size_t n,
                                 float keep, float b1, float b2, float rate, float root, float eps) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    const float grad = g[i] * *clip;
    g[i] = 0.f;
    if (*clip < 0.f) return;
    m[i] = b1 * m[i] + (1.f - b1) * grad;
    v[i] = b2 * v[i] + (1.f - b2) * grad * grad;
    w[i] = w[i] * keep - rate * m[i] / (sqrtf(v[i]) * root + eps);
    if (copy) store(&copy[i], w[i]);
}

// Each block's sum of squares in f64; the number of blocks is part of the result's bits, so it depends on n alone.
KERNEL void sum_of_squares(const float* g, double* shares, size_t n) {
    __shared__ double scratch[THREADS];
    double sum = 0.0;
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += (size_t)gridDim.x * THREADS)
        sum += (double)g[i] * g[i];
    sum = block_reduce<double, false>(sum, scratch);
    if (threadIdx.x == 0) shares[blockIdx.x] = sum;
}

// One block: clip = min(1, max_norm / norm), and the norm itself. Clipping is off where max_norm is 0. A norm that is not
// finite gives the clip of -1, by which adamw leaves the step out.
KERNEL void clip_factor(const double* shares, int count, float max_norm, float* clip, double* norm) {
    __shared__ double scratch[THREADS];
    double sum = 0.0;
    for (int i = threadIdx.x; i < count; i += THREADS) sum += shares[i];
    sum = block_reduce<double, false>(sum, scratch);
    if (threadIdx.x == 0) {
        const double root = sqrt(sum);
        *norm = root;
        // False for a NaN too.
        const bool finite = root <= 1.7976931348623157e308;
        *clip = !finite ? -1.f : max_norm > 0.f && root > max_norm ? (float)(max_norm / root) : 1.f;
    }
}
