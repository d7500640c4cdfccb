// Sums of code words for NEON, which every 64-bit Arm processor has.
#if defined(__aarch64__)
#define PJ_NEON
#define PJ_WORDS kWordsNeon
#include "lookup_words.inl"
#endif
