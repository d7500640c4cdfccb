// Block kernels for AVX2; this file alone is compiled for it (native/CMakeLists.txt).
#if defined(__x86_64__)
#define PJ_BLOCK kBlockAvx2
#include "block_impl.inl"
#endif
