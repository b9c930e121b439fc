// ops/rope.rs on a card, in place on x bf16 [n, heads * head_dim], half-split; one thread a pair. Tables cos, sin are
// f32 [positions, half]; direction -1 is the backward pass.

extern "C" __global__ void rope(bf16* x, const float* cos, const float* sin, const unsigned* positions, size_t pairs,
                                int heads, int half, float direction) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= pairs) return;
    const int j = i % half;
    const size_t head = i / half;
    const size_t angle = (size_t)positions[head / heads] * half + j;
    const size_t at = head * 2 * half + j;
    const float c = cos[angle], s = direction * sin[angle];
    const float a = load(x[at]), b = load(x[at + half]);
    store(&x[at], a * c - b * s);
    store(&x[at + half], b * c + a * s);
}
