// Table lookups for NEON, which every 64-bit Arm processor has.
#if defined(__aarch64__)
#define PJ_NEON
#define PJ_LOOKUP kLookupNeon
#include "lookup.inl"
#endif
