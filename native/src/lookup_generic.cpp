// Table lookups for any processor.
#define PJ_LOOKUP kLookupGeneric
#include "lookup.inl"
