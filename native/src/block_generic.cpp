// Block kernels for any processor.
#define PJ_BLOCK kBlockGeneric
#include "block_impl.inl"
