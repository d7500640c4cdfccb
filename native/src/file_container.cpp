#include "file_container.h"

#include <bit>

namespace picojoule::file {

static_assert(std::endian::native == std::endian::little, "packed files are little-endian, and so are their users");

int64_t times(int64_t a, int64_t b) { return a != 0 && b > kMany / a ? kMany : a * b; }
int64_t plus(int64_t a, int64_t b) { return a >= kMany - b ? kMany : a + b; }

int64_t count_of(const Shape& shape) {
  int64_t n = 1;
  for (int64_t d : shape)
    if (d == 0) return 0;
  for (int64_t d : shape) n = times(n, d);
  return n;
}

Dtype narrowest(int64_t low, int64_t high) {
  if (low >= INT8_MIN && high <= INT8_MAX) return Dtype::i8;
  if (low >= INT16_MIN && high <= INT16_MAX) return Dtype::i16;
  return low >= INT32_MIN && high <= INT32_MAX ? Dtype::i32 : Dtype::i64;
}

namespace {

constexpr std::pair<const char*, Dtype> kDtypes[] = {{"U8", Dtype::u8},   {"I8", Dtype::i8},   {"I16", Dtype::i16}, {"I32", Dtype::i32},
                                                     {"I64", Dtype::i64}, {"F32", Dtype::f32}, {"F64", Dtype::f64}};
constexpr size_t kMaxRank = 8;

[[noreturn]] void tensor_fail(const std::string& name, const std::string& what) { throw FormatError("tensor '" + name + "'" + what); }

// A list of whole numbers in low..2^32, or nothing.
std::optional<Shape> sizes(const std::optional<Json>& list, size_t most, int64_t low) {
  if (!list || !list->is(JsonType::list) || list->size() > most) return std::nullopt;
  Shape out;
  bool good = true;
  list->each([&](size_t, Json v) {
    const auto n = v.is(JsonType::whole) ? v.whole() : std::nullopt;
    good = good && n && *n >= low && *n <= kMaxFile;
    out.push_back(good ? *n : 0);
  });
  return good ? std::optional(out) : std::nullopt;
}

void check_metadata(const std::optional<Json>& found) {
  const bool object = found && found->is(JsonType::object);
  const auto is = [&](const char* key, const char* text) {
    const auto v = found->get(key);
    return v && v->is(JsonType::text) && v->text() == text;
  };
  if (!object || !is("format", "picojoule"))
    throw FormatError("field '__metadata__.format': not a packed picojoule file; write one with picojoule.pack");
  if (!is("version", "1")) {
    const auto v = found->get("version");
    throw VersionError("field '__metadata__.version': this reader knows version 1, got " + (v ? v->shown() : "none") +
                       "; use the picojoule that wrote the file");
  }
  if (found->size() != 2) throw FormatError("field '__metadata__': unknown keys beside format and version");
}

struct Place {
  Dtype dtype;
  Shape shape;
  int64_t begin, end;
};

Place read_place(const std::string& name, Json row) {
  if (name.empty() || !printable(name, 512)) throw FormatError("tensor '" + name.substr(0, 40) + "': names are 1 to 512 printable characters");
  const bool object = row.is(JsonType::object) && row.size() == 3;
  const auto dtype = object ? row.get("dtype") : std::nullopt, shape = object ? row.get("shape") : std::nullopt,
             offsets = object ? row.get("data_offsets") : std::nullopt;
  if (!dtype || !shape || !offsets) tensor_fail(name, ": needs exactly the fields dtype, shape, data_offsets");
  Place place{};
  const std::string wanted = dtype->is(JsonType::text) ? dtype->text() : "";
  bool known = false;
  for (auto [text, type] : kDtypes)
    if (wanted == text) known = true, place.dtype = type;
  if (!known) tensor_fail(name, ", field 'dtype': must be one of U8, I8, I16, I32, I64, F32, F64, got " + dtype->shown());
  const auto dims = sizes(shape, kMaxRank, 0), ends = sizes(offsets, 2, 0);
  const char* rule = " integers in 0..2^32, got ";
  if (!dims) tensor_fail(name, ", field 'shape': must be at most 8" + (rule + shape->shown()));
  if (!ends || ends->size() != 2) tensor_fail(name, ", field 'data_offsets': must be 2" + (rule + offsets->shown()));
  place.shape = *dims;
  place.begin = (*ends)[0];
  place.end = (*ends)[1];
  return place;
}

}  // namespace

std::map<std::string, Entry> split(const Bytes& file) {
  const auto size = static_cast<int64_t>(file.size);
  if (size < 8 || size > kMaxFile) throw FormatError("field 'header length': a file of " + std::to_string(size) + " bytes is no packed file");
  uint64_t length = 0;
  std::memcpy(&length, file.data, 8);
  if (length % 8 || length < 2 || length > static_cast<uint64_t>(std::min<int64_t>(kMaxHeader, size - 8)))
    throw FormatError("field 'header length': must be a multiple of 8, at most " + std::to_string(kMaxHeader) + " and inside the file of " +
                      std::to_string(size) + " bytes, got " + std::to_string(length) + "; this is no packed file, or a damaged one");
  const std::string_view raw(reinterpret_cast<const char*>(file.data) + 8, length);
  const Document header(raw, "header");
  if (raw[0] != '{') throw FormatError("field 'header': must be a JSON object");
  check_metadata(header.root().get("__metadata__"));
  const int64_t room = size - 8 - static_cast<int64_t>(length);
  const std::byte* data = file.data + 8 + length;
  std::map<std::string, Entry> entries;
  int64_t at = 0;
  header.root().fields([&](const std::string& name, Json row) {
    if (name == "__metadata__") return;
    const Place place = read_place(name, row);
    if (place.begin != at || place.end < at)
      tensor_fail(name, ", field 'data_offsets': must begin at " + std::to_string(at) + ", got " + row.get("data_offsets")->shown());
    const int64_t expected = times(count_of(place.shape), bytes_of(place.dtype)), bytes = place.end - at;
    if (bytes != expected)
      tensor_fail(name, ", field 'data_offsets': " + to_string(place.shape) + " takes " + std::to_string(expected) + " bytes, got " +
                            std::to_string(bytes));
    at = place.end;
    if (at > room)
      tensor_fail(name, ", field 'data_offsets': ends at " + std::to_string(at) + ", the file holds " + std::to_string(room) +
                            " bytes of data; it is truncated: copy or fetch it again");
    entries.emplace(name, Entry{place.dtype, place.shape, data + place.begin, bytes});
  });
  if (at != room)
    throw FormatError("field 'data_offsets': tensors take " + std::to_string(at) + " bytes, the file holds " + std::to_string(room) +
                      "; copy or fetch it again");
  return entries;
}

namespace {

struct Code {
  std::string name;
  int bits;
  Shape shape;
  int64_t low() const { return name == "sign" || name == "ternary" ? -1 : name == "int" ? -(int64_t{1} << (bits - 1)) : 0; }
  int64_t high() const { return name == "sign" || name == "ternary" ? 1 : (int64_t{1} << (name == "int" ? bits - 1 : bits)) - 1; }
};

Code read_code(const std::string& name, Json row) {
  const std::string where = "field 'graph.codes." + name;
  const bool object = row.is(JsonType::object) && row.size() == 3;
  const auto code = object ? row.get("code") : std::nullopt, bits = object ? row.get("bits") : std::nullopt,
             shape = object ? row.get("shape") : std::nullopt;
  if (!code || !bits || !shape) throw FormatError(where + "': needs exactly code, bits and shape");
  Code made;
  made.name = code->is(JsonType::text) ? code->text() : "";
  const bool one = made.name == "sign" || made.name == "bool", two = made.name == "ternary";
  if (!one && !two && made.name != "int" && made.name != "index")
    throw FormatError(where + ".code': must be one of sign, bool, ternary, int, index, got " + code->shown());
  const int64_t least = two ? 2 : 1, most = one ? 1 : two ? 2 : 32;
  const auto width = bits->is(JsonType::whole) ? bits->whole() : std::nullopt;
  if (!width || *width < least || *width > most)
    throw FormatError(where + ".bits': " + made.name + " takes " + std::to_string(least) + ".." + std::to_string(most) + " bits, got " + bits->shown());
  made.bits = static_cast<int>(*width);
  const auto dims = sizes(shape, kMaxRank, 1);
  if (!dims) throw FormatError(where + ".shape': must be at most 8 positive sizes");
  made.shape = *dims;
  return made;
}

// Values of a stream of bits: number i has the bits i*b .. i*b + b - 1, bit j is bit j % 8 of byte j / 8.
template <class E>
void unpack_bits(const std::byte* from, int64_t count, const Code& code, E* to) {
  const bool negative = code.name == "int" || code.name == "ternary";
  const int b = code.bits;
  const uint64_t mask = (uint64_t{1} << b) - 1;
  uint64_t window = 0;
  int held = 0;
  for (int64_t i = 0; i < count; ++i) {
    for (; held < b; held += 8) window |= static_cast<uint64_t>(*from++) << held;
    const auto bits = static_cast<int64_t>(window & mask);
    window >>= b;
    held -= b;
    if (code.name[0] == 's') to[i] = static_cast<E>(bits * 2 - 1);
    else to[i] = static_cast<E>(negative && bits >> (b - 1) ? bits - (int64_t{1} << b) : bits);
  }
}

void bounds(Constant& constant) {
  const Tensor& t = constant.tensor;
  if (constant.real() || t.size() == 0) return;
  with_integer(t.dtype, [&](auto zero) {
    using E = decltype(zero);
    E low = 0, high = 0;
    const std::byte* from = t.data.data();
    for (int64_t i = 0; i < t.size(); ++i) {
      E v;
      std::memcpy(&v, from + i * static_cast<int64_t>(sizeof(E)), sizeof(E));
      low = i == 0 || v < low ? v : low;
      high = i == 0 || v > high ? v : high;
    }
    constant.low = low;
    constant.high = high;
  });
}

Constant unpack_one(const std::string& name, const Entry& raw, const Code& code, const Bytes& file) {
  Constant made;
  made.code = code.name;
  made.bits = code.bits;
  made.tensor.shape = code.shape;
  made.tensor.dtype = narrowest(code.low(), code.high());
  const int64_t count = count_of(code.shape);
  const int rest = static_cast<int>(count * code.bits % 8);
  if (rest && std::to_integer<int>(raw.data[raw.bytes - 1]) >> rest) tensor_fail("const." + name, ": unused bits of the last byte must be zero");
  if (code.name == "int" && code.bits == 8) {
    made.tensor.data = TensorBytes::view(raw.data, raw.bytes, file.owner);
  } else {
    made.tensor.data = TensorBytes(static_cast<size_t>(count * bytes_of(made.tensor.dtype)));
    with_integer(made.tensor.dtype, [&](auto zero) { unpack_bits(raw.data, count, code, reinterpret_cast<decltype(zero)*>(made.tensor.data.own())); });
  }
  bounds(made);
  if (code.name == "ternary" && made.low < -1) tensor_fail("const." + name, ": the bit pattern 10 is no ternary code");
  return made;
}

Constant plain(const Entry& raw, const Bytes& file) {
  Constant made;
  made.bits = static_cast<int>(bytes_of(raw.dtype)) * 8;
  made.tensor.dtype = raw.dtype;
  made.tensor.shape = raw.shape;
  // Kernels read whole values; where the file does not align them, a copy does.
  if (reinterpret_cast<uintptr_t>(raw.data) % static_cast<uintptr_t>(bytes_of(raw.dtype)) == 0)
    made.tensor.data = TensorBytes::view(raw.data, raw.bytes, file.owner);
  else
    made.tensor.data.assign(raw.data, raw.data + raw.bytes);
  bounds(made);
  return made;
}

}  // namespace

Constants unpack(const std::map<std::string, Entry>& entries, Json codes, const Bytes& file) {
  if (!codes.is(JsonType::object)) throw FormatError("field 'graph.codes': must be an object");
  for (auto& [name, entry] : entries)
    if (name.rfind("const.", 0) != 0) tensor_fail(name, ": unknown; constants are named 'const.<name>'");
  int64_t taken = 0;
  std::map<std::string, Code> todo;
  codes.fields([&](const std::string& name, Json row) {
    const Code code = read_code(name, row);
    const auto raw = entries.find("const." + name);
    if (raw == entries.end() || raw->second.dtype != Dtype::u8 || raw->second.shape.size() != 1)
      tensor_fail("const." + name, ": bit-packed constants are U8 with one axis");
    const int64_t count = count_of(code.shape), bits = times(count, code.bits), bytes = bits / 8 + (bits % 8 ? 1 : 0);
    if (bytes != raw->second.bytes)
      throw FormatError("field 'graph.codes." + name + ".shape': " + to_string(code.shape) + " of " + std::to_string(code.bits) + " bits takes " +
                        std::to_string(bytes) + " bytes, the tensor has " + std::to_string(raw->second.bytes));
    taken = plus(taken, times(count, bytes_of(narrowest(code.low(), code.high()))));
    todo.emplace(name, code);
  });
  if (taken > kUnpack * static_cast<int64_t>(file.size) + kUnpackFree)
    throw FormatError("field 'graph.codes': constants unpack to more than 64 times the file");
  Constants made;
  for (auto& [key, entry] : entries) {
    const std::string name = key.substr(6);
    const auto code = todo.find(name);
    if (code == todo.end() && entry.dtype == Dtype::u8) tensor_fail(key, ": bytes without an entry in 'graph.codes'");
    made.emplace(name, code == todo.end() ? plain(entry, file) : unpack_one(name, entry, code->second, file));
  }
  return made;
}

}  // namespace picojoule::file
