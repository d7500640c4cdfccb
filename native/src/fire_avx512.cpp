// Fused neurons for AVX-512 (isa.h says which parts).
#if defined(__x86_64__)
#define PJ_FIRE kFireAvx512
#include "fire_impl.inl"
#endif
