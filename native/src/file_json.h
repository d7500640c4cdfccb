#pragma once
// Strict JSON over bytes that stay where they are: UTF-8, no NaN or infinity, no repeated key, bounded depth.
// A document is a flat list of values of 20 bytes; text is unescaped when it is asked for.

#include <optional>
#include <string_view>

#include "picojoule/tensor.h"

namespace picojoule::file {

// The file is malformed; the message names the tensor or the node and the field.
struct FormatError : Error {
  using Error::Error;
};
// It was written for another version of the format.
struct VersionError : FormatError {
  using FormatError::FormatError;
};

enum class JsonType : uint8_t { null, flag, whole, real, text, list, object };

class Document;

// A value of a document, which must outlive it.
class Json {
 public:
  Json(const Document* document, uint32_t at) : document_(document), at_(at) {}

  JsonType type() const;
  bool is(JsonType wanted) const { return type() == wanted; }
  size_t size() const;                   // entries of a list or an object
  bool flag() const;                     // of a flag
  std::optional<int64_t> whole() const;  // of a whole number; empty beyond 64 bits
  double real() const;                   // of a real number
  std::string text() const;              // of text, unescaped; lone surrogates as three bytes
  std::string_view raw() const;          // as written
  std::string shown() const;             // at most 40 bytes of it, for messages

  std::optional<Json> get(std::string_view key) const;  // of an object
  // Calls f(index, value) for the entries of a list.
  template <class F>
  void each(F&& f) const {
    Json entry = child();
    for (size_t i = 0; i < size(); ++i, entry = entry.after()) f(i, entry);
  }
  // Calls f(key, value) for the fields of an object.
  template <class F>
  void fields(F&& f) const {
    Json key = child();
    for (size_t i = 0; i < size(); ++i) {
      const Json value = key.after();
      f(key.text(), value);
      key = value.after();
    }
  }

 private:
  Json child() const { return {document_, at_ + 1}; }
  Json after() const;

  const Document* document_;
  uint32_t at_;
};

class Document {
 public:
  // Throws FormatError naming `field`. `raw` must outlive the document and be below 4 GiB.
  Document(std::string_view raw, const std::string& field);

  Json root() const { return {this, 0}; }

 private:
  friend class Json;
  friend class JsonParser;
  struct Node {
    JsonType type;
    uint32_t begin, end;  // as written, text without its quotes
    uint32_t next;        // the value after this one and all inside it
    uint32_t count;
  };
  std::string_view raw_;
  std::vector<Node> nodes_;
};

// True when text has at most `most` characters and none that controls, breaks or hides text; the same list is in
// picojoule/deploy/format.py.
bool printable(std::string_view text, size_t most);

}  // namespace picojoule::file
