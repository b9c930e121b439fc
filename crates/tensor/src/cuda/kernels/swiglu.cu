// ops/swiglu.rs on a card: rows [gate | up] of 2 f, one thread a pair; n f threads in blocks of THREADS.

extern "C" __global__ void swiglu(const bf16* gate_up, bf16* y, size_t pairs, int f) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= pairs) return;
    const size_t at = i / f * 2 * f + i % f;
    const float g = load(gate_up[at]);
    store(&y[i], g / (1.f + expf(-g)) * load(gate_up[at + f]));
}

// The gradient takes the place of the input.
extern "C" __global__ void swiglu_backward(bf16* gate_up, const bf16* dy, size_t pairs, int f) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= pairs) return;
    const size_t at = i / f * 2 * f + i % f;
    const float g = load(gate_up[at]), u = load(gate_up[at + f]), d = load(dy[i]);
    const float s = 1.f / (1.f + expf(-g));
    store(&gate_up[at], d * u * (s + g * s * (1.f - s)));
    store(&gate_up[at + f], d * g * s);
}
