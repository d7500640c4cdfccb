// Table lookups for AVX-512 (isa.h says which parts); compiled for it (native/CMakeLists.txt).
#if defined(__x86_64__)
#define PJ_LOOKUP kLookupAvx512
#include "lookup.inl"
#endif
