#include "picojoule/version.h"

namespace picojoule {
const char* version() { return kVersion; }
}  // namespace picojoule
