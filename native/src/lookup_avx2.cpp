// Table lookups for AVX2; compiled for it (native/CMakeLists.txt).
#if defined(__x86_64__)
#define PJ_LOOKUP kLookupAvx2
#include "lookup.inl"
#endif
