// Fast kernels for any processor.
#define PJ_TABLE kFastGeneric
#include "fast_impl.inl"
#define PJ_ROWS kRowsGeneric
#include "rows_impl.inl"
