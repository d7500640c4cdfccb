// Sums of code words for any processor.
#define PJ_WORDS kWordsGeneric
#include "lookup_words.inl"
