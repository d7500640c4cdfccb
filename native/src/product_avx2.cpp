// Matrix products for AVX2.
#if defined(__x86_64__)
#define PJ_PRODUCT kProductAvx2
#include "product_impl.inl"
#endif
