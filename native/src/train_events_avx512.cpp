// Spike-driven training kernels for AVX-512F; this file alone is compiled for it (native/CMakeLists.txt).
#if defined(__x86_64__)
#define PJ_EVENTS kEventsAvx512
#define PJ_BYTES 64
#include "train_events.inl"
#endif
