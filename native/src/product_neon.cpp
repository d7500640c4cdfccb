// Matrix products for NEON.
#if defined(__aarch64__)
#define PJ_NEON
#define PJ_PRODUCT kProductNeon
#include "product_impl.inl"
#endif
