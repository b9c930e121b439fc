// ops/rms_norm.rs on a card. One block of THREADS a row; x, y, dy, dx are [n, d], w f32 [d], rstd f32 [n].

// r = 1 / sqrt(mean(x^2) + eps), y = x r w.
KERNEL(rms_norm)(const real* x, const float* w, real* y, float* rstd, int d, float eps) {
    __shared__ float scratch[THREADS];
    const size_t row = (size_t)blockIdx.x * d;
    float squares = 0.f;
    for (int j = threadIdx.x; j < d; j += THREADS) squares += load(x[row + j]) * load(x[row + j]);
    const float r = 1.f / sqrtf(block_reduce<float, false>(squares, scratch) / (float)d + eps);
    if (threadIdx.x == 0) rstd[blockIdx.x] = r;
    for (int j = threadIdx.x; j < d; j += THREADS) store(&y[row + j], load(x[row + j]) * r * w[j]);
}

// y again from rstd; one thread a value.
KERNEL(rms_norm_again)(const real* x, const float* w, const float* rstd, real* y, size_t values, int d) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < values) store(&y[i], load(x[i]) * rstd[i / d] * w[i % d]);
}

// dx = r (w dy - h mean(w dy h)) with h = x r; added to dx if add is not 0.
KERNEL(rms_norm_dx)(const real* x, const float* w, const float* rstd, const real* dy, real* dx, int d, int add) {
    __shared__ float scratch[THREADS];
    const size_t row = (size_t)blockIdx.x * d;
    const float r = rstd[blockIdx.x];
    float dot = 0.f;
    for (int j = threadIdx.x; j < d; j += THREADS) dot += w[j] * load(dy[row + j]) * load(x[row + j]) * r;
    const float mean = block_reduce<float, false>(dot, scratch) / (float)d;
    for (int j = threadIdx.x; j < d; j += THREADS) {
        float g = r * (w[j] * load(dy[row + j]) - load(x[row + j]) * r * mean);
        store(&dx[row + j], add ? load(dx[row + j]) + g : g);
    }
}

// Shares of dw: blockIdx.y takes `rows` rows in order, one thread a column. shares f32 [gridDim.y, d].
KERNEL(rms_norm_dw)(const real* x, const float* rstd, const real* dy, float* shares, int n, int d, int rows) {
    const int j = blockIdx.x * THREADS + threadIdx.x;
    if (j >= d) return;
    const int first = blockIdx.y * rows, end = first + rows < n ? first + rows : n;
    float sum = 0.f;
    for (int i = first; i < end; i++) sum += load(dy[(size_t)i * d + j]) * load(x[(size_t)i * d + j]) * rstd[i];
    shares[(size_t)blockIdx.y * d + j] = sum;
}

// dw += the shares, in order.
KERNEL(add_shares)(const float* shares, float* dw, int count, int d) {
    const int j = blockIdx.x * THREADS + threadIdx.x;
    if (j >= d) return;
    float sum = 0.f;
    for (int i = 0; i < count; i++) sum += shares[(size_t)i * d + j];
    dw[j] += sum;
}
