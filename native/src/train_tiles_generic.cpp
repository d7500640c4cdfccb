// Minimal filtering for generic: see train_tiles.inl.
#define PJ_TILES kTilesGeneric
#define PJ_BYTES 16
#include "train_tiles.inl"
