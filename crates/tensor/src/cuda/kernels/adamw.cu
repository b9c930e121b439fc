// kernels/adamw.rs on a card: f32 master weights and gradients of one length n, moments in f32 or bf16; the bf16 copy that
// the products read is written in the same pass, and the gradient cleared. What depends on the norm is read from the
// card's memory, so that the host need not wait for it.

// The numbers of a step that are the same for every weight; made by `adamw_rule`.
struct Rule { float clip, rate, root, apply; };

// A number whose bits look random, for each counter (the finaliser lowbias32).
__device__ inline unsigned mix(unsigned x) {
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

// Moments in bf16 are rounded up or down at random, in proportion to how near each is.
__device__ inline void store_moment(float* p, float x, unsigned) { *p = x; }
__device__ inline void store_moment(bf16* p, float x, unsigned noise) {
    *p = (bf16)((__float_as_uint(x) + (noise & 0xffffu)) >> 16);
}

template <typename M>
__device__ void adamw_update(float* w, float* g, M* m, M* v, bf16* copy, const Rule* rule, const unsigned* steps, size_t n,
                             size_t place, float keep, float b1, float b2, float eps) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    if (rule->apply != 0.f) {
        const float grad = g[i] * rule->clip;
        const float first = b1 * load(m[i]) + (1.f - b1) * grad, second = b2 * load(v[i]) + (1.f - b2) * grad * grad;
        const float weight = w[i] * keep - rule->rate * first / (sqrtf(second) * rule->root + eps);
        const unsigned noise = mix(*steps * 0x9e3779b9u + (unsigned)(place + i));
        w[i] = weight;
        store_moment(&m[i], first, noise);
        store_moment(&v[i], second, noise >> 16);
        if (copy) copy[i] = to_bf16(weight);
    }
    g[i] = 0.f;
}

KERNEL(adamw_f32)(float* w, float* g, float* m, float* v, bf16* copy, const Rule* rule, const unsigned* steps, size_t n,
                  size_t place, float keep, float b1, float b2, float eps) {
    adamw_update(w, g, m, v, copy, rule, steps, n, place, keep, b1, b2, eps);
}

KERNEL(adamw_bf16)(float* w, float* g, bf16* m, bf16* v, bf16* copy, const Rule* rule, const unsigned* steps, size_t n,
                   size_t place, float keep, float b1, float b2, float eps) {
    adamw_update(w, g, m, v, copy, rule, steps, n, place, keep, b1, b2, eps);
}

// Each block's sum of squares in f64; the number of blocks is part of the result's bits, so it depends on n alone.
KERNEL(sum_of_squares)(const float* g, double* shares, size_t n) {
    __shared__ double scratch[THREADS];
    double sum = 0.0;
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += (size_t)gridDim.x * THREADS)
        sum += (double)g[i] * g[i];
    sum = block_reduce<double, false>(sum, scratch);
    if (threadIdx.x == 0) shares[blockIdx.x] = sum;
}

// One block. The norm of the gradient, and from it the rule of this step: if the norm or the loss is not finite, nothing is
// applied and the step is not counted. max_norm 0 turns clipping off. report = (norm, 1 if applied); loss may be null.
KERNEL(adamw_rule)(const double* shares, int count, const float* loss, float max_norm, float lr, float b1, float b2,
                   unsigned* steps, Rule* rule, float* report) {
    __shared__ double scratch[THREADS];
    double sum = 0.0;
    for (int i = threadIdx.x; i < count; i += THREADS) sum += shares[i];
    sum = block_reduce<double, false>(sum, scratch);
    if (threadIdx.x != 0) return;
    const float norm = (float)sqrt(sum), value = loss ? *loss : 0.f;
    const bool good = norm - norm == 0.f && value - value == 0.f;
    *steps += good ? 1 : 0;
    const double t = (double)*steps;
    rule->apply = good ? 1.f : 0.f;
    rule->clip = max_norm > 0.f && norm > max_norm ? max_norm / norm : 1.f;
    rule->rate = (float)((double)lr / (1.0 - pow((double)b1, t)));
    rule->root = (float)(1.0 / sqrt(1.0 - pow((double)b2, t)));
    report[0] = norm;
    report[1] = rule->apply;
}
