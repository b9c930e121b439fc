// Tensor cores on bf16: fragments of mma.m16n8k16 (PTX ISA, "Matrix Fragments for mma.m16n8k16"). With g = lane / 4 and
// t = lane % 4: of A [16, 16] a lane has rows g and g + 8, columns 2t, 2t + 1 and 8 more; of B [16, 8] rows 2t, 2t + 1 and
// 8 more, column g; of C [16, 8] rows g and g + 8, columns 2t, 2t + 1. The card made of the processor has functions of its
// own for what is assembly here (tests/fake_card/warps.h).
#ifndef ACT_F32

#ifdef __CUDACC_RTC__
// C += A B.
__device__ inline void mma_bf16(float* c, const unsigned* a, unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// Four 8 x 8 matrices; lane l gives the address of row l % 8 of matrix l / 8.
__device__ inline void load_matrices(unsigned* r, const bf16* row) {
    const unsigned at = (unsigned)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
__device__ inline void load_transposed(unsigned* r, const bf16* row) {
    const unsigned at = (unsigned)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
// Begins to copy 16 bytes to shared memory, zeros if not `inside`. They are there after finish_copies, for other threads
// after a barrier more.
__device__ inline void copy_async(bf16* to, const bf16* from, bool inside) {
    const unsigned at = (unsigned)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" : : "r"(at), "l"(from), "r"(inside ? 16 : 0) : "memory");
}
__device__ inline void finish_copies() { asm volatile("cp.async.wait_all;" : : : "memory"); }
// 2^x, to 22 bits.
__device__ inline float power_of_2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ inline unsigned pack(float low, float high) {
    unsigned both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}
// A pair of bf16 times 2^120, of numbers that are not too large for that; those below the smallest normal one count.
__device__ inline unsigned raise_by_120(unsigned pair) {
    unsigned raised;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(raised) : "r"(pair), "r"(0x7b807b80u), "r"(0x80008000u));
    return raised;
}
#else
inline unsigned raise_by_120(unsigned pair) {
    auto raised = [](unsigned bits) { return (unsigned)to_bf16(__uint_as_float(bits << 16) * 0x1p120f); };
    return raised(pair & 0xffffu) | raised(pair >> 16) << 16;
}
inline float power_of_2(float x) { return exp2f(x); }
inline unsigned pack(float low, float high) { return (unsigned)to_bf16(low) | (unsigned)to_bf16(high) << 16; }
#endif

// A fragment of rows r0.., columns c0.. of a tile of rows `pitch` apart.
__device__ inline void load_a(unsigned* a, const bf16* tile, int pitch, int r0, int c0) {
    const int lane = threadIdx.x % 32;
    load_matrices(a, tile + (r0 + lane % 16) * pitch + c0 + lane / 16 * 8);
}
// Two B fragments of tile^T: columns n0.. and n0 + 8.. are rows of the tile, k0.. its columns: b[0], b[1] and b[2], b[3].
__device__ inline void load_b_rows(unsigned* b, const bf16* tile, int pitch, int n0, int k0) {
    const int lane = threadIdx.x % 32;
    load_matrices(b, tile + (n0 + lane % 8 + lane / 16 * 8) * pitch + k0 + lane / 8 % 2 * 8);
}
// Two B fragments of the tile itself: k0.. are rows, columns n0.. and n0 + 8...
__device__ inline void load_b_columns(unsigned* b, const bf16* tile, int pitch, int k0, int n0) {
    const int lane = threadIdx.x % 32;
    load_transposed(b, tile + (k0 + lane % 8 + lane / 8 % 2 * 8) * pitch + n0 + lane / 16 * 8);
}
// s [16, 8 T] += a b^T, of C A fragments [16, 16 C] and the first 8 T rows of tile b.
template <int C, int T>
__device__ inline void add_products(float (*s)[4], const unsigned (*a)[4], const bf16* b, int pitch) {
#pragma unroll
    for (int c = 0; c < C; c++)
#pragma unroll
        for (int t = 0; t < T / 2; t++) {
            unsigned right[4];
            load_b_rows(right, b, pitch, t * 16, c * 16);
            mma_bf16(s[2 * t], a[c], right[0], right[1]);
            mma_bf16(s[2 * t + 1], a[c], right[2], right[3]);
        }
}
// The A fragment of columns 16 c.. of the C fragments of a row of tiles, rounded.
__device__ inline void as_a(unsigned* a, const float (*c)[4]) {
    a[0] = pack(c[0][0], c[0][1]), a[1] = pack(c[0][2], c[0][3]);
    a[2] = pack(c[1][0], c[1][1]), a[3] = pack(c[1][2], c[1][3]);
}
#endif
