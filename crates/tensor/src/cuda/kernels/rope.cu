// ops/rope.rs on a card, half-split; one thread a pair. The first `rotated` heads of every row of `heads` are rotated, the
// others copied; y may be x. x, y [n, heads * 2 half]; cos, sin f32 [all positions, half]; positions [n]. direction -1 is the
// backward pass.

KERNEL void rope(const act* x, act* y, const float* cos, const float* sin, const unsigned* positions, size_t pairs,
                 int heads, int rotated, int half, float direction) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= pairs) return;
    const int j = i % half;
    const size_t head = i / half;
    const size_t angle = (size_t)positions[head / heads] * half + j;
    const size_t at = head * 2 * half + j;
    const bool turn = (int)(head % heads) < rotated;
    const float c = turn ? cos[angle] : 1.f, s = turn ? direction * sin[angle] : 0.f;
    const float a = load(x[at]), b = load(x[at + half]);
    store(&y[at], a * c - b * s);
    store(&y[at + half], b * c + a * s);
}
