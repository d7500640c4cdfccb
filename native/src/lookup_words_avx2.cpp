// Sums of code words for AVX2; compiled for it (native/CMakeLists.txt).
#if defined(__x86_64__)
#define PJ_WORDS kWordsAvx2
#include "lookup_words.inl"
#endif
