// Leaky training kernels for AVX-512 (F, BW, DQ, VL); this file alone is compiled for it (native/CMakeLists.txt).
// Contraction stays off, so spikes do not depend on the instruction set.
#if defined(__x86_64__)
#define PJ_LEAKY kLeakyAvx512
#include "train_leaky.inl"
#endif
