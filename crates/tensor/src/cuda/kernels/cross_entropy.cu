// The middle of ops/cross_entropy.rs on a card: one block of THREADS a row of logits f32 [n, vocabulary].
// Writes dz = a (softmax(z) - onehot(t)) as bf16 and nll = -a log softmax(z)[t].

extern "C" __global__ void loss_gradient(const float* z, const unsigned* targets, const float* weights, bf16* dz,
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
    for (int j = threadIdx.x; j < vocabulary; j += THREADS)
        store(&dz[row + j], a * (expf(z[row + j] - top) / sum - (j == target ? 1.f : 0.f)));
    if (threadIdx.x == 0) nll[blockIdx.x] = -a * (z[row + target] - top - logf(sum));
}
