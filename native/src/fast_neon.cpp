// Fast kernels for NEON, which every 64-bit Arm processor has.
#if defined(__aarch64__)
#define PJ_NEON
#define PJ_TABLE kFastNeon
#include "fast_impl.inl"
#define PJ_ROWS kRowsNeon
#include "rows_impl.inl"
#endif
