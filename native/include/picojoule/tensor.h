#pragma once
// Kinds, element types and constants: the vocabulary of the engine. Mirrors picojoule.core.kinds.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace picojoule {

using Shape = std::vector<int64_t>;
using Ints = std::vector<int64_t>;

// Every refusal of the engine; Python sees a ValueError.
struct Error : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

// An input holds what its kind does not allow; Python sees a KindError.
struct KindError : Error {
  using Error::Error;
};
// An input holds NaN or infinity.
struct NonFiniteError : Error {
  using Error::Error;
};

enum class Dtype : uint8_t { i8, i16, i32, i64, u8, f32, f64 };

inline int64_t bytes_of(Dtype type) {
  switch (type) {
    case Dtype::i8: case Dtype::u8: return 1;
    case Dtype::i16: return 2;
    case Dtype::i32: case Dtype::f32: return 4;
    default: return 8;
  }
}

// Calls f with a value of the C++ type behind an integer Dtype.
template <class F>
decltype(auto) with_integer(Dtype type, F&& f) {
  switch (type) {
    case Dtype::i8: return f(int8_t{});
    case Dtype::u8: return f(uint8_t{});
    case Dtype::i16: return f(int16_t{});
    case Dtype::i32: return f(int32_t{});
    case Dtype::i64: return f(int64_t{});
    default: throw Error("a floating-point tensor where integers are needed");
  }
}

inline int64_t product(const Shape& shape) {
  int64_t n = 1;
  for (int64_t d : shape) n *= d;
  return n;
}

std::string to_string(const Shape& shape);

// Bytes of a constant that nobody changes any more: its own, or a view of memory that an owner keeps alive
// (a mapped file, an array). Copies share them.
class TensorBytes {
 public:
  TensorBytes() = default;
  explicit TensorBytes(size_t size) : own_(new std::byte[size]), owner_(own_), data_(own_.get()), size_(size) {}
  static TensorBytes view(const void* data, size_t size, std::shared_ptr<const void> owner) {
    TensorBytes made;
    made.owner_ = std::move(owner);
    made.data_ = static_cast<const std::byte*>(data);
    made.size_ = size;
    return made;
  }
  void assign(const std::byte* begin, const std::byte* end) {
    *this = TensorBytes(static_cast<size_t>(end - begin));
    std::copy(begin, end, own_.get());
  }
  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  std::byte* own() { return own_.get(); }  // to fill; null for a view

 private:
  std::shared_ptr<std::byte[]> own_;
  std::shared_ptr<const void> owner_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// A constant of the graph: integers of any width, C order.
struct Tensor {
  Dtype dtype = Dtype::i64;
  Shape shape;
  TensorBytes data;

  int64_t size() const { return product(shape); }
  Ints values() const;
  int64_t at(int64_t i) const;  // for the weights of whole layers, which eight bytes each would make large
};

inline int64_t Tensor::at(int64_t i) const {
  return with_integer(dtype, [&](auto zero) { return static_cast<int64_t>(reinterpret_cast<const decltype(zero)*>(data.data())[i]); });
}

enum class KindName : uint8_t { binary, ternary, integer, time, fixed };

struct Kind {
  KindName name = KindName::binary;
  int64_t levels = 1;
  int bits = 0;
  int frac = 0;

  bool spikes() const { return name != KindName::fixed; }
  int64_t low() const {
    if (name == KindName::fixed) return -(int64_t{1} << (bits - 1));
    return name == KindName::ternary ? -1 : 0;
  }
  int64_t high() const { return name == KindName::fixed ? (int64_t{1} << (bits - 1)) - 1 : levels; }
  // Smallest storage type that holds every value of the kind.
  Dtype storage() const {
    for (auto [type, bound] : {std::pair{Dtype::i8, int64_t{127}}, {Dtype::i16, 32767}, {Dtype::i32, 2147483647}})
      if (high() <= bound && low() >= -bound - 1) return type;
    return Dtype::i64;
  }
};

Kind make_kind(const std::string& name, int64_t levels, int bits, int frac);

}  // namespace picojoule
