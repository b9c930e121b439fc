// A driver for compiling without a card: it takes any machine code and has no card. As libcublasLt it only has a version.
#include <stddef.h>

#define TAKEN(name) int name(void** out) { return *out = (void*)1, 0; }
#define NOTHING(name) int name() { return 0; }
#define NO_CARD(name) int name() { return 100; }

TAKEN(cuLibraryLoadData) TAKEN(cuLibraryGetKernel) TAKEN(cuKernelGetFunction) TAKEN(cuModuleLoadData) TAKEN(cuModuleGetFunction)
NOTHING(cuLibraryUnload) NOTHING(cuModuleUnload) NOTHING(cuKernelSetAttribute)
NO_CARD(cuInit) NO_CARD(cuDeviceGet) NO_CARD(cuCtxGetCurrent) NO_CARD(cuCtxGetLimit) NO_CARD(cuCtxPopCurrent)
NO_CARD(cuCtxPushCurrent) NO_CARD(cuStreamGetCtx) NO_CARD(cuLinkCreate) NO_CARD(cuLinkAddData) NO_CARD(cuLinkComplete)
NO_CARD(cuLinkDestroy) NO_CARD(cuLaunchKernel) NO_CARD(cuLaunchKernelEx) NO_CARD(cuLaunchCooperativeKernel)
NO_CARD(cuLibraryLoadFromFile) NO_CARD(cuOccupancyMaxPotentialClusterSize) NO_CARD(cuTensorMapEncodeIm2col)
NO_CARD(cuTensorMapEncodeTiled)

int cuDriverGetVersion(int* version) { return *version = 13000, 0; }
int cuDeviceGetCount(int* count) { return *count = 0, 0; }
int cuKernelGetAttribute(int* value) { return *value = 0, 0; }
int cuGetErrorName(int code, const char** text) { return (void)code, *text = "CUDA_ERROR_NO_DEVICE", 0; }
int cuGetErrorString(int code, const char** text) { return (void)code, *text = "there is no card", 0; }
size_t cublasLtGetVersion() { return 130400; }
