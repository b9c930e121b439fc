// ops/embedding.rs on a card. The table is [vocabulary, d]; one thread a value, blocks of THREADS.

KERNEL(embedding)(const real* table, const unsigned* ids, real* y, size_t values, int d) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < values) y[i] = table[(size_t)ids[i / d] * d + i % d];
}

// dw[ids[i]] += dy[i], the same bits every time: the host sorts the rows by id, stably. Distinct id k is distinct[k]; its
// rows are rows[starts[k]..starts[k + 1]], added in order by the one thread that owns the value.
KERNEL(embedding_backward)(const real* dy, const unsigned* distinct, const unsigned* starts, const unsigned* rows,
                           float* dw, size_t values, int d) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= values) return;
    const size_t k = i / d, j = i % d;
    float sum = 0.f;
    for (unsigned r = starts[k]; r < starts[k + 1]; r++) sum += load(dy[(size_t)rows[r] * d + j]);
    dw[(size_t)distinct[k] * d + j] += sum;
}
