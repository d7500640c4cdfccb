// Four steps of leaky neurons for avx512: see train_short.inl.
#if defined(__x86_64__)
#define PJ_SHORT kShortAvx512
#include "train_short.inl"
#endif
