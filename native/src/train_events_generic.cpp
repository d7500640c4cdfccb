// Spike-driven training kernels for any processor.
#define PJ_EVENTS kEventsGeneric
#define PJ_BYTES 16
#include "train_events.inl"
