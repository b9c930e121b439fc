// ops/swiglu.rs on a card: rows [gate | up] of 2 f, one thread a pair; n f threads in blocks of THREADS.

KERNEL(swiglu)(const real* gate_up, real* y, size_t pairs, int f) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= pairs) return;
    const size_t at = i / f * 2 * f + i % f;
    const float g = load(gate_up[at]);
    store(&y[i], g / (1.f + expf(-g)) * load(gate_up[at + f]));
}

// The gradient takes the place of the input.
KERNEL(swiglu_backward)(real* gate_up, const real* dy, size_t pairs, int f) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= pairs) return;
    const size_t at = i / f * 2 * f + i % f;
    const float g = load(gate_up[at]), u = load(gate_up[at + f]), d = load(dy[i]);
    const float s = 1.f / (1.f + expf(-g));
    store(&gate_up[at], d * u * (s + g * s * (1.f - s)));
    store(&gate_up[at + f], d * g * s);
}
