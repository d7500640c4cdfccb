// Leaky training kernels for any processor.
#define PJ_LEAKY kLeakyGeneric
#include "train_leaky.inl"
