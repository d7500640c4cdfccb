// Block kernels for NEON, which every 64-bit Arm processor has.
#if defined(__aarch64__)
#define PJ_NEON
#define PJ_BLOCK kBlockNeon
#include "block_impl.inl"
#endif
