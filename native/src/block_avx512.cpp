// Block kernels for AVX-512 (isa.h says which parts); this file alone is compiled for it (native/CMakeLists.txt).
#if defined(__x86_64__)
#define PJ_BLOCK kBlockAvx512
#include "block_impl.inl"
#endif
