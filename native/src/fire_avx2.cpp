// Fused neurons for AVX2.
#if defined(__x86_64__)
#define PJ_FIRE kFireAvx2
#include "fire_impl.inl"
#endif
