// ops/embedding.rs and ops/select_rows.rs on a card. The table is [vocabulary, d] in the type of activations; one thread
// a value, blocks of THREADS.

KERNEL void embedding(const act* table, const unsigned* ids, act* y, size_t values, int d) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < values) y[i] = table[(size_t)ids[i / d] * d + i % d];
}

// dw[ids[i]] += dy[i], the same bits every time: the host sorts the rows by id, stably. Distinct id k is distinct[k]; its
// rows are rows[starts[k]..starts[k + 1]], added in order by the one thread that owns the value. Groups without rows, whose
// distinct[k] says nothing, come last.
KERNEL void embedding_backward(const act* dy, const unsigned* distinct, const unsigned* starts,
                                              const unsigned* rows, float* dw, size_t values, int d) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= values) return;
    const size_t k = i / d, j = i % d;
    if (starts[k] == starts[k + 1]) return;
    float sum = 0.f;
    for (unsigned r = starts[k]; r < starts[k + 1]; r++) sum += load(dy[(size_t)rows[r] * d + j]);
    dw[(size_t)distinct[k] * d + j] += sum;
}

// The same into activations: where rows were selected, their gradient goes back.
KERNEL void select_backward(const act* dy, const unsigned* distinct, const unsigned* starts, const unsigned* rows, act* dx,
                            size_t values, int d) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= values) return;
    const size_t k = i / d, j = i % d;
    if (starts[k] == starts[k + 1]) return;
    const size_t at = (size_t)distinct[k] * d + j;
    float sum = load(dx[at]);
    for (unsigned r = starts[k]; r < starts[k + 1]; r++) sum += load(dy[(size_t)rows[r] * d + j]);
    store(&dx[at], sum);
}
