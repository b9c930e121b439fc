// Sums and casts on a card: one thread a value, blocks of THREADS.

// y = a + b; y may be either.
KERNEL void add(const act* a, const act* b, act* y, size_t n) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) store(&y[i], load(a[i]) + load(b[i]));
}

// y += x f, with the factor in the card's memory.
KERNEL void add_scaled(const float* x, const float* factor, float* y, size_t n) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) y[i] += x[i] * *factor;
}

// y = x f; y may be x.
KERNEL void scale(const act* x, const float* factor, act* y, size_t n) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) store(&y[i], load(x[i]) * *factor);
}

// y = -x, both f32.
KERNEL void negate(const float* x, float* y, size_t n) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) y[i] = -x[i];
}

// The copy of f32 values that activations are computed with.
KERNEL void from_f32(const float* x, act* y, size_t n) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) store(&y[i], x[i]);
}

KERNEL void to_f32(const act* x, float* y, size_t n) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) y[i] = load(x[i]);
}
