// The middle of ops/cross_entropy.rs on a card: one block of THREADS a row of logits f32 [n, vocabulary].
// Writes dz = a (softmax(z) - onehot(t)), and logprob = log softmax(z)[t]; loss = -a logprob. dz, logprob and loss may be
// null; weights too, which is a weight of 1. `flip` -1 turns dz's sign.

KERNEL(loss_gradient)(const float* z, const unsigned* targets, const float* weights, real* dz, float* logprob,
                      float* loss, int vocabulary, float flip) {
    __shared__ float scratch[THREADS];
    const size_t row = (size_t)blockIdx.x * vocabulary;
    const int target = targets[blockIdx.x];
    const float a = weights ? weights[blockIdx.x] : 1.f;
    float top = -3.402823466e38f;
    for (int j = threadIdx.x; j < vocabulary; j += THREADS) top = z[row + j] > top ? z[row + j] : top;
    top = block_reduce<float, true>(top, scratch);
    float sum = 0.f;
    for (int j = threadIdx.x; j < vocabulary; j += THREADS) sum += expf(z[row + j] - top);
    sum = block_reduce<float, false>(sum, scratch);
    if (dz)
        for (int j = threadIdx.x; j < vocabulary; j += THREADS)
            store(&dz[row + j], flip * a * (expf(z[row + j] - top) / sum - (j == target ? 1.f : 0.f)));
    if (threadIdx.x == 0) {
        const float log_p = z[row + target] - top - logf(sum);
        if (logprob) logprob[blockIdx.x] = log_p;
        if (loss) loss[blockIdx.x] = -a * log_p;
    }
}
