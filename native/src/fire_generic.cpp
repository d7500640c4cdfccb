// Fused neurons for any processor.
#define PJ_FIRE kFireGeneric
#include "fire_impl.inl"
