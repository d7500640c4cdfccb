// Matrix products for any processor.
#define PJ_PRODUCT kProductGeneric
#include "product_impl.inl"
