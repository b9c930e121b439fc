// kernels/adamw.rs on a card: f32 master weights, moments and gradients of one length n; the bf16 copy that the
// products read is written in the same pass (copy may be null), and the gradient cleared. What depends on norm and losses
// is read from the card's memory, so that the host need not wait for them.

// Steps so far: those that were applied, and those that were left out.
struct Counts { unsigned applied, left_out; };
// What the host says of a step: the learning rate, and what weights that decay are multiplied by.
struct Step { double rate, keep; };
// The numbers of a step that are the same for every weight. A clip below 0 leaves the step out, except that the gradient is
// cleared.
struct Rule { float clip, rate, root, keep; };

KERNEL void adamw(float* w, float* g, float* m, float* v, bf16* copy, const Rule* rule, size_t n, int decays, float b1,
                  float b2, float eps) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    const float grad = g[i] * rule->clip;
    g[i] = 0.f;
    if (rule->clip < 0.f) return;
    m[i] = b1 * m[i] + (1.f - b1) * grad;
    v[i] = b2 * v[i] + (1.f - b2) * grad * grad;
    w[i] = w[i] * (decays ? rule->keep : 1.f) - rule->rate * m[i] / (sqrtf(v[i]) * rule->root + eps);
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

// One block: the norm of the gradient, and from it the rule of this step. Clipping is off where max_norm is 0. report is the
// norm and then the losses of the step, f32, which are there before. If one of them is not finite the step is left out; once
// more than `at_most` were, all that follow are too, with a norm of NaN.
KERNEL void adamw_rule(const double* shares, int count, double* report, int losses, unsigned at_most, double max_norm,
                       const Step* step, double b1, double b2, Counts* counts, Rule* rule) {
    __shared__ double scratch[THREADS];
    double sum = 0.0;
    for (int i = threadIdx.x; i < count; i += THREADS) sum += shares[i];
    sum = block_reduce<double, false>(sum, scratch);
    if (threadIdx.x > 0) return;
    const double root = sqrt(sum);
    // False for a NaN too.
    bool finite = root <= 1.7976931348623157e308;
    for (int i = 0; i < losses; i++) {
        const float loss = ((const float*)(report + 1))[i];
        finite = finite && loss >= -3.402823466e38f && loss <= 3.402823466e38f;
    }
    const bool halted = counts->left_out > at_most;
    report[0] = halted ? (double)__uint_as_float(0x7fc00000u) : root;
    if (!finite || halted) {
        counts->left_out++;
        rule->clip = -1.f;
        return;
    }
    const double t = ++counts->applied;
    rule->clip = max_norm > 0.0 && root > max_norm ? (float)(max_norm / root) : 1.f;
    rule->keep = (float)step->keep;
    rule->rate = (float)(step->rate / (1.0 - pow(b1, t)));
    rule->root = (float)(1.0 / sqrt(1.0 - pow(b2, t)));
}
