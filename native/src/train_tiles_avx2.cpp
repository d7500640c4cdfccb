// Minimal filtering for avx2: see train_tiles.inl.
#if defined(__x86_64__)
#define PJ_TILES kTilesAvx2
#define PJ_BYTES 32
#include "train_tiles.inl"
#endif
