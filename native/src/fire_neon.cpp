// Fused neurons for NEON.
#if defined(__aarch64__)
#define PJ_NEON
#define PJ_FIRE kFireNeon
#include "fire_impl.inl"
#endif
