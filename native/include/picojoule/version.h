#pragma once

namespace picojoule {
// Version of the engine; the Python package asserts that it matches its own.
inline constexpr const char* kVersion = "0.1.0";
// Number of the Python binding: raised, with BINDING in picojoule/core/native.py, when a bound signature changes.
inline constexpr int kBinding = 8;
}  // namespace picojoule
