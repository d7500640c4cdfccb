// Minimal filtering for avx512: see train_tiles.inl.
#if defined(__x86_64__)
#define PJ_TILES kTilesAvx512
#define PJ_BYTES 64
#include "train_tiles.inl"
#endif
