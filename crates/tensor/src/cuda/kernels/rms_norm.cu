// ops/rms_norm.rs on a card. One block of THREADS a row; x, y, dy, dx are activations [n, d], w f32 [d], rstd f32 [n].

// s = x + residual (written to sum, which may be x), r = 1 / sqrt(mean(s^2) + eps), y = s r w. residual may be null.
KERNEL void rms_norm(const act* x, const act* residual, act* sum, const float* w, act* y,
                                    float* rstd, int d, float eps) {
    __shared__ float scratch[THREADS];
    const size_t row = (size_t)blockIdx.x * d;
    float squares = 0.f;
    for (int j = threadIdx.x; j < d; j += THREADS) {
        float s = load(x[row + j]);
        if (residual) {
            store(&sum[row + j], s + load(residual[row + j]));
            s = load(sum[row + j]);
        }
        squares += s * s;
    }
    const float r = 1.f / sqrtf(block_reduce<float, false>(squares, scratch) / (float)d + eps);
    if (threadIdx.x == 0) rstd[blockIdx.x] = r;
    const act* from = residual ? sum : x;
    for (int j = threadIdx.x; j < d; j += THREADS) store(&y[row + j], load(from[row + j]) * r * w[j]);
}

// dx = r (w dy - h mean(w dy h)) with h = x r; added to dx if add is not 0.
KERNEL void rms_norm_dx(const act* x, const float* w, const float* rstd, const act* dy, act* dx,
                                       int d, int add) {
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

// shares[y] [d] = sum of dy h over the rows of share y, of which each but the last has `rows`: one thread a column.
KERNEL void rms_norm_dw(const act* x, const float* rstd, const act* dy, float* shares, int n, int d, int rows) {
    const int j = blockIdx.x * THREADS + threadIdx.x;
    if (j >= d) return;
    const int from = blockIdx.y * rows, to = from + rows < n ? from + rows : n;
    float sum = 0.f;
    for (int i = from; i < to; i++) sum += load(dy[(size_t)i * d + j]) * load(x[(size_t)i * d + j]) * rstd[i];
    shares[(size_t)blockIdx.y * d + j] = sum;
}

// dw += the shares, in order.
KERNEL void add_shares(const float* shares, float* dw, int count, int d) {
    const int j = blockIdx.x * THREADS + threadIdx.x;
    if (j >= d) return;
    float sum = 0.f;
    for (int i = 0; i < count; i++) sum += shares[(size_t)i * d + j];
    dw[j] += sum;
}
