// The middle of ops/cross_entropy.rs on a card: one block of THREADS a row of logits f32 [n, vocabulary].
// Writes dz = a (softmax(z) - onehot(t)), which may take the place of z where activations are f32, and
// nll = -a log softmax(z)[t].

KERNEL void loss_gradient(const float* z, const unsigned* targets, const float* weights, act* dz,
                                         float* nll, int vocabulary) {
    __shared__ float scratch[THREADS];
    const size_t row = (size_t)blockIdx.x * vocabulary;
    const int target = targets[blockIdx.x];
    const float a = weights[blockIdx.x];
    float top = -3.402823466e38f;
    for (int j = threadIdx.x; j < vocabulary; j += THREADS) top = z[row + j] > top ? z[row + j] : top;
    top = block_reduce<float, true>(top, scratch);
    float sum = 0.f;
    for (int j = threadIdx.x; j < vocabulary; j += THREADS) sum += expf(z[row + j] - top);
    sum = block_reduce<float, false>(sum, scratch);
    const float at_target = z[row + target];
    __syncthreads();
    for (int j = threadIdx.x; j < vocabulary; j += THREADS)
        store(&dz[row + j], a * (expf(z[row + j] - top) / sum - (j == target ? 1.f : 0.f)));
    if (threadIdx.x == 0) nll[blockIdx.x] = -a * (at_target - top - logf(sum));
}

// One block: the sum of n values in f64, in a fixed order.
KERNEL void sum_values(const float* x, float* sum, int n) {
    __shared__ double scratch[THREADS];
    double mine = 0.0;
    for (int i = threadIdx.x; i < n; i += THREADS) mine += (double)x[i];
    mine = block_reduce<double, false>(mine, scratch);
    if (threadIdx.x == 0) *sum = (float)mine;
}
