// Fast kernels for AVX-512 (isa.h says which parts); this file alone is compiled for it (native/CMakeLists.txt).
#if defined(__x86_64__)
#define PJ_TABLE kFastAvx512
#include "fast_impl.inl"
#define PJ_ROWS kRowsAvx512
#include "rows_impl.inl"
#endif
