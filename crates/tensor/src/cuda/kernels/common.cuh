// What every kernel shares. NVRTC needs no header of the toolkit: bf16 is its bits, all arithmetic is in f32.
typedef unsigned short bf16;

__device__ inline float load(bf16 x) { return __uint_as_float((unsigned)x << 16); }
__device__ inline float load(float x) { return x; }

// To the nearest, ties to even; NaN stays NaN.
__device__ inline bf16 to_bf16(float x) {
    unsigned bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (bf16)(bits >> 16 | 0x40u);
    return (bf16)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
__device__ inline void store(bf16* p, float x) { *p = to_bf16(x); }
__device__ inline void store(float* p, float x) { *p = x; }

// What activations are stored as: float with ACT_F32, else bf16. Each choice is a module of its own.
#ifdef ACT_F32
typedef float act;
#else
typedef bf16 act;
#endif

// What only the compiler for cards knows; the card made of the processor has these for itself.
#ifdef __CUDACC_RTC__
#define KERNEL extern "C" __global__
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
// The value of the lane of this warp whose number differs in the bits of the mask. All lanes take part.
__device__ inline float shuffle_xor(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
#endif

#define LEAST __uint_as_float(0xff800000u)  // minus infinity

// Threads of a block, in every kernel but those of attention on tensor cores; a power of two.
#define THREADS 256

// Sum or maximum over the block, the same bits every time: a tree of fixed shape. All threads get the result.
template <typename T, bool MAX>
__device__ T block_reduce(T x, T* scratch) {
    scratch[threadIdx.x] = x;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if ((int)threadIdx.x < half) {
            T other = scratch[threadIdx.x + half];
            T mine = scratch[threadIdx.x];
            scratch[threadIdx.x] = MAX ? (mine > other ? mine : other) : mine + other;
        }
        __syncthreads();
    }
    T result = scratch[0];
    __syncthreads();
    return result;
}

// Programmatic dependent launch, for the kernels that stream.rs lists and those in front of them. From launch_dependents on the
// next kernel's blocks may come into the card, once all blocks of this one have called it. wait_for_previous waits until
// the kernel before has ended, and all it wrote can be read: every thread of a listed kernel calls it, has read nothing before
// but what no kernel of the chain writes, and has written nothing. Launched plainly, or before sm_90, neither does anything.
#ifdef __CUDACC_RTC__
#if __CUDA_ARCH__ >= 900
__device__ inline void launch_dependents() { asm volatile("griddepcontrol.launch_dependents;" : : : "memory"); }
__device__ inline void wait_for_previous() { asm volatile("griddepcontrol.wait;" : : : "memory"); }
#else
__device__ inline void launch_dependents() {}
__device__ inline void wait_for_previous() {}
#endif
#endif

// 16 bytes, at an address that is a multiple of 16.
struct alignas(16) Words { unsigned w[4]; };

#ifdef __CUDACC_RTC__
// 16 bytes that are read once: not kept in the first cache. Those that nobody writes while this kernel is in the card, be it
// only waiting; and others.
__device__ inline Words load_once(const void* at) {
    Words x;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x.w[0]), "=r"(x.w[1]), "=r"(x.w[2]), "=r"(x.w[3]) : "l"(at));
    return x;
}
__device__ inline Words load_written_once(const void* at) {
    Words x;
    asm volatile("ld.global.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x.w[0]), "=r"(x.w[1]), "=r"(x.w[2]), "=r"(x.w[3]) : "l"(at) : "memory");
    return x;
}
// Asks for the line of an address in the second cache, where others' writes to it are seen.
__device__ inline void prefetch(const void* at) { asm volatile("prefetch.global.L2 [%0];" : : "l"(at)); }
__device__ inline Words load_words(const void* at) {
    Words x;
    asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x.w[0]), "=r"(x.w[1]), "=r"(x.w[2]), "=r"(x.w[3]) : "l"(at));
    return x;
}
// What another block has written in this kernel: not from the first cache, which may hold what was there before.
__device__ inline float load_fresh(const float* at) {
    float x;
    asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(x) : "l"(at) : "memory");
    return x;
}
#else
inline float load_fresh(const float* at) { return *at; }
inline Words load_once(const void* at) { return warps::load_16<Words>(at); }
inline Words load_written_once(const void* at) { return warps::load_16<Words>(at); }
inline void prefetch(const void* at) { warps::touch(at); }
inline Words load_words(const void* at) { return warps::load_16<Words>(at); }
#endif
