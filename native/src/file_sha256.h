#pragma once
// SHA-256 of a whole file, as FIPS 180-4 defines it.

#include <cstddef>
#include <string>

namespace picojoule::file {

std::string sha256(const std::byte* data, size_t size);  // 64 hexadecimal digits

}  // namespace picojoule::file
