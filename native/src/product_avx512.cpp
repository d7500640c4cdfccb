// Matrix products for AVX-512 (isa.h says which parts).
#if defined(__x86_64__)
#define PJ_PRODUCT kProductAvx512
#include "product_impl.inl"
#endif
