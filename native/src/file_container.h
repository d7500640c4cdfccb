#pragma once
// The container of a packed file: header, entries, and constants unpacked from bits. docs/format.md describes it.

#include <map>
#include <memory>

#include "file_json.h"

namespace picojoule::file {

constexpr int64_t kMaxFile = int64_t{1} << 32, kMaxHeader = 1 << 22, kMaxText = 1 << 24;
constexpr int64_t kUnpack = 64, kUnpackFree = 1 << 20;    // constants of F bytes unpack to at most 64 F + 1 MiB
constexpr int64_t kRows = 4096, kRowsFree = 1 << 24;      // rows of one sample have at most 4096 F + 2^24 elements
constexpr int64_t kMany = int64_t{1} << 62;               // where counts saturate; also above every integer

int64_t times(int64_t a, int64_t b);   // of counts >= 0, saturating at kMany
int64_t plus(int64_t a, int64_t b);
int64_t count_of(const Shape& shape);  // product, saturating

// Bytes of a whole file, kept alive by `owner`.
struct Bytes {
  std::shared_ptr<const void> owner;
  const std::byte* data = nullptr;
  size_t size = 0;
};

struct Entry {
  Dtype dtype;
  Shape shape;
  const std::byte* data;
  int64_t bytes;
};

// Entries by name; throws FormatError. They point into the bytes.
std::map<std::string, Entry> split(const Bytes& file);

// A constant of the graph: integers (or, for people, real numbers) in C order, and how the file holds it.
struct Constant {
  Tensor tensor;
  std::string code;  // of codes.<name>; empty: plain
  int bits = 0;      // of one value in the file
  bool real() const { return tensor.dtype == Dtype::f32 || tensor.dtype == Dtype::f64; }
  int64_t low = 0, high = 0;  // of integers; 0 when empty
};

using Constants = std::map<std::string, Constant>;

// Unpacks what `codes` names and takes the rest as it is; `entries` holds const.<name> only.
Constants unpack(const std::map<std::string, Entry>& entries, Json codes, const Bytes& file);

Dtype narrowest(int64_t low, int64_t high);

}  // namespace picojoule::file
