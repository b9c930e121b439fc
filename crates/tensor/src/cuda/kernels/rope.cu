// ops/rope.rs on a card, half-split: the first `rotated` of the `heads` heads of a row of x are rotated, the rest copied;
// y may be x. One thread a pair; x, y [n, heads * 2 half]. Tables cos, sin are f32 [positions, half]; direction -1 is the
// backward pass.

KERNEL(rope)(const real* x, real* y, const float* cos, const float* sin, const unsigned* positions, size_t pairs,
             int heads, int rotated, int half, float direction) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= pairs) return;
    const int j = i % half;
    const size_t head = i / half;
    const size_t at = head * 2 * half + j;
    const real first = x[at], second = x[at + half];
    if ((int)(head % heads) >= rotated) {
        y[at] = first;
        y[at + half] = second;
        return;
    }
    const size_t angle = (size_t)positions[head / heads] * half + j;
    const float c = cos[angle], s = direction * sin[angle];
    store(&y[at], load(first) * c - load(second) * s);
    store(&y[at + half], load(second) * c + load(first) * s);
}
