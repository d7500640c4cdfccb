// Four steps of leaky neurons for avx2: see train_short.inl.
#if defined(__x86_64__)
#define PJ_SHORT kShortAvx2
#include "train_short.inl"
#endif
