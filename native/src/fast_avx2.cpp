// Fast kernels for AVX2 and BMI2; this file alone is compiled for them (native/CMakeLists.txt).
#if defined(__x86_64__)
#define PJ_TABLE kFastAvx2
#include "fast_impl.inl"
#define PJ_ROWS kRowsAvx2
#include "rows_impl.inl"
#endif
