#pragma once

namespace picojoule {
// Version of the engine; the Python package asserts that it matches its own.
inline constexpr const char* kVersion = "0.1.0";
}  // namespace picojoule
