// Spike-driven training kernels for AVX2 and FMA; this file alone is compiled for them (native/CMakeLists.txt).
#if defined(__x86_64__)
#define PJ_EVENTS kEventsAvx2
#define PJ_BYTES 32
#include "train_events.inl"
#endif
