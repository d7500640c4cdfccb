// Sums of code words for AVX-512 (isa.h says which parts); compiled for it (native/CMakeLists.txt).
#if defined(__x86_64__)
#define PJ_WORDS kWordsAvx512
#include "lookup_words.inl"
#endif
