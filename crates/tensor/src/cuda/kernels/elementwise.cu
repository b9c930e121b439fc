// Sums, casts and moves of rows: one thread a value, blocks of THREADS.
#define EACH(i, count) const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; if (i >= count) return

// out = a + b; out may be a or b.
KERNEL(add)(const real* a, const real* b, real* out, size_t count) {
    EACH(i, count);
    store(&out[i], load(a[i]) + load(b[i]));
}

// out += x *factor, all f32: gradients of parameters.
KERNEL(add_scaled_f32)(float* out, const float* x, const float* factor, size_t count) {
    EACH(i, count);
    out[i] += x[i] * *factor;
}

// x *= *factor.
KERNEL(scale)(real* x, const float* factor, size_t count) {
    EACH(i, count);
    store(&x[i], load(x[i]) * *factor);
}

KERNEL(cast_to_bf16)(const float* x, bf16* out, size_t count) {
    EACH(i, count);
    out[i] = to_bf16(x[i]);
}

// y[i] = x[rows[i]], rows of d values.
KERNEL(gather_rows)(const real* x, const unsigned* rows, real* y, size_t values, int d) {
    EACH(i, values);
    y[i] = x[(size_t)rows[i / d] * d + i % d];
}

// dx[i] = (add ? dx[i] : 0) + the sum of dy[from[starts[i] .. starts[i + 1]]], in order: no two threads share a value.
KERNEL(scatter_rows)(const real* dy, const unsigned* starts, const unsigned* from, real* dx, size_t values, int d, int add) {
    EACH(i, values);
    const size_t row = i / d, j = i % d;
    float sum = add ? load(dx[i]) : 0.f;
    for (unsigned r = starts[row]; r < starts[row + 1]; r++) sum += load(dy[(size_t)from[r] * d + j]);
    store(&dx[i], sum);
}

// One block: out = sum of count values, in f64 by a tree of fixed shape.
KERNEL(sum)(const float* x, float* out, size_t count) {
    __shared__ double scratch[THREADS];
    double sum = 0.0;
    for (size_t i = threadIdx.x; i < count; i += THREADS) sum += (double)x[i];
    sum = block_reduce<double, false>(sum, scratch);
    if (threadIdx.x == 0) *out = (float)sum;
}
