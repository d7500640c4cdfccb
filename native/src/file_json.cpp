#include "file_json.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace picojoule::file {
namespace {

constexpr int kDepth = 32;
constexpr size_t kDigits = 4300;  // of a whole number, as Python reads them

// Code point at `at`, which moves on; -1 where the bytes are no UTF-8. Lone surrogates pass with `surrogates`.
int32_t decode(std::string_view s, size_t& at, bool surrogates) {
  const auto byte = [&](size_t i) { return i < s.size() ? static_cast<uint8_t>(s[i]) : 0; };
  const uint8_t lead = byte(at);
  if (lead < 0x80) return ++at, lead;
  const int more = lead >= 0xF0 && lead < 0xF5 ? 3 : lead >= 0xE0 && lead < 0xF0 ? 2 : lead >= 0xC2 && lead < 0xE0 ? 1 : 0;
  if (more == 0) return -1;
  int32_t point = lead & (0x3F >> more);
  for (int i = 1; i <= more; ++i) {
    if ((byte(at + i) & 0xC0) != 0x80) return -1;
    point = point << 6 | (byte(at + i) & 0x3F);
  }
  static constexpr int32_t least[] = {0, 0x80, 0x800, 0x10000};
  if (point < least[more] || point > 0x10FFFF || (!surrogates && point >= 0xD800 && point < 0xE000)) return -1;
  at += more + 1;
  return point;
}

void encode(std::string& out, uint32_t point) {
  if (point < 0x80) {
    out += static_cast<char>(point);
  } else if (point < 0x800) {
    out += static_cast<char>(0xC0 | point >> 6);
    out += static_cast<char>(0x80 | (point & 0x3F));
  } else if (point < 0x10000) {
    out += static_cast<char>(0xE0 | point >> 12);
    out += static_cast<char>(0x80 | (point >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (point & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | point >> 18);
    out += static_cast<char>(0x80 | (point >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (point >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (point & 0x3F));
  }
}

int hex(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; }
bool digit(char c) { return c >= '0' && c <= '9'; }

// Four hexadecimal digits, or -1.
int32_t four(std::string_view s, size_t at) {
  if (at + 4 > s.size()) return -1;
  int32_t value = 0;
  for (size_t i = at; i < at + 4; ++i) {
    if (hex(s[i]) < 0) return -1;
    value = value << 4 | hex(s[i]);
  }
  return value;
}

// A number beyond the range of double is too large, or so small that it counts as zero.
bool too_large(std::string_view s) {
  int64_t power = 0, exponent = 0;
  bool point = false, leading = true;
  size_t i = 0;
  for (; i < s.size() && s[i] != 'e' && s[i] != 'E'; ++i) {
    if (s[i] == '.') point = true;
    if (!digit(s[i])) continue;
    leading = leading && s[i] == '0';
    if (leading && point) --power;
    if (!leading && !point) ++power;
  }
  if (i < s.size()) {
    const bool minus = s[++i] == '-';
    if (s[i] == '-' || s[i] == '+') ++i;
    for (; i < s.size(); ++i) exponent = std::min<int64_t>(exponent * 10 + (s[i] - '0'), int64_t{1} << 40);
    if (minus) exponent = -exponent;
  }
  return !leading && power + exponent > 0;
}

}  // namespace

class JsonParser {
 public:
  JsonParser(Document& document, const std::string& field) : d_(document), s_(document.raw_), field_(field) {}

  void run() {
    for (size_t at = 0; at < s_.size();)
      if (decode(s_, at, false) < 0) fail("is not UTF-8");
    skip();
    value(0);
    skip();
    if (at_ != s_.size()) fail("more text after the JSON value");
  }

 private:
  using Node = Document::Node;

  [[noreturn]] void fail(const std::string& what) const {
    throw FormatError("field '" + field_ + "': " + what + " at byte " + std::to_string(at_));
  }
  void skip() {
    while (at_ < s_.size() && (s_[at_] == ' ' || s_[at_] == '\t' || s_[at_] == '\n' || s_[at_] == '\r')) ++at_;
  }
  char peek() const { return at_ < s_.size() ? s_[at_] : '\0'; }
  bool take(char c) {
    if (at_ >= s_.size() || s_[at_] != c) return false;
    ++at_;
    return true;
  }
  bool word(std::string_view w) {
    if (s_.substr(at_, w.size()) != w) return false;
    at_ += w.size();
    return true;
  }
  size_t open(JsonType type) {
    d_.nodes_.push_back({type, static_cast<uint32_t>(at_), 0, 0, 0});
    return d_.nodes_.size() - 1;
  }
  void close(size_t node, uint32_t count, size_t end) {
    Node& n = d_.nodes_[node];
    n.end = static_cast<uint32_t>(end);
    n.next = static_cast<uint32_t>(d_.nodes_.size());
    n.count = count;
  }

  void value(int depth) {
    const char c = peek();
    if ((c == '{' || c == '[') && depth == kDepth) fail("JSON is nested deeper than " + std::to_string(kDepth));
    if (c == '{') return object(depth);
    if (c == '[') return list(depth);
    if (c == '"') return text();
    if (c == '-' || digit(c)) return number();
    for (const char* name : {"NaN", "Infinity"})
      if (word(name)) fail(std::string(name) + " is not allowed");
    const size_t begin = at_;
    const bool null = word("null");
    if (!null && !word("true") && !word("false")) fail("a JSON value is missing");
    d_.nodes_.push_back({null ? JsonType::null : JsonType::flag, static_cast<uint32_t>(begin), static_cast<uint32_t>(at_),
                         static_cast<uint32_t>(d_.nodes_.size() + 1), 0});
  }

  void list(int depth) {
    const size_t node = open(JsonType::list);
    uint32_t count = 0;
    ++at_;
    skip();
    if (!take(']')) {
      do {
        skip();
        value(depth + 1);
        skip();
        ++count;
      } while (take(','));
      if (!take(']')) fail("a list needs ',' or ']'");
    }
    close(node, count, at_);
  }

  void object(int depth) {
    const size_t node = open(JsonType::object);
    std::vector<std::string> keys;
    ++at_;
    skip();
    if (!take('}')) {
      do {
        skip();
        if (peek() != '"') fail("an object needs a key in quotes");
        const auto key = static_cast<uint32_t>(d_.nodes_.size());
        text();
        keys.push_back(Json(&d_, key).text());
        skip();
        if (!take(':')) fail("a key needs ':'");
        skip();
        value(depth + 1);
        skip();
      } while (take(','));
      if (!take('}')) fail("an object needs ',' or '}'");
    }
    close(node, static_cast<uint32_t>(keys.size()), at_);
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    if (twice != keys.end()) fail("the key '" + *twice + "' appears twice");
  }

  void text() {
    const size_t node = open(JsonType::text);
    d_.nodes_[node].begin = static_cast<uint32_t>(++at_);
    for (; peek() != '"' || at_ >= s_.size(); ++at_) {
      if (at_ >= s_.size()) fail("text does not end");
      if (static_cast<uint8_t>(s_[at_]) < 0x20) fail("text holds a control character");
      if (s_[at_] != '\\') continue;
      ++at_;
      if (peek() == 'u') {
        if (four(s_, at_ + 1) < 0) fail("\\u needs four hexadecimal digits");
        at_ += 4;
      } else if (at_ >= s_.size() || std::string_view("\"\\/bfnrt").find(peek()) == std::string_view::npos) {
        fail("an unknown escape");
      }
    }
    close(node, 0, at_++);
  }

  void number() {
    const size_t node = open(JsonType::whole), begin = at_;
    if (take('-') && word("Infinity")) fail("-Infinity is not allowed");
    if (!digit(peek())) fail("a number needs digits");
    if (!take('0'))
      while (digit(peek())) ++at_;
    const size_t digits = at_ - begin - (s_[begin] == '-' ? 1 : 0);
    bool real = false;
    if (peek() == '.' && at_ + 1 < s_.size() && digit(s_[at_ + 1])) {
      real = true;
      for (++at_; digit(peek());) ++at_;
    }
    if (peek() == 'e' || peek() == 'E') {
      size_t next = at_ + 1;
      if (next < s_.size() && (s_[next] == '+' || s_[next] == '-')) ++next;
      if (next < s_.size() && digit(s_[next])) {
        real = true;
        for (at_ = next; digit(peek());) ++at_;
      }
    }
    if (!real && digits > kDigits) fail("a whole number of more than 4300 digits");
    d_.nodes_[node].type = real ? JsonType::real : JsonType::whole;
    close(node, 0, at_);
    if (real && !std::isfinite(Json(&d_, static_cast<uint32_t>(node)).real()))
      fail(Json(&d_, static_cast<uint32_t>(node)).shown() + " is not a finite number");
  }

  Document& d_;
  std::string_view s_;
  const std::string& field_;
  size_t at_ = 0;
};

Document::Document(std::string_view raw, const std::string& field) : raw_(raw) { JsonParser(*this, field).run(); }

JsonType Json::type() const { return document_->nodes_[at_].type; }
size_t Json::size() const { return document_->nodes_[at_].count; }
bool Json::flag() const { return raw() == "true"; }
Json Json::after() const { return {document_, document_->nodes_[at_].next}; }

std::string_view Json::raw() const {
  const auto& node = document_->nodes_[at_];
  return document_->raw_.substr(node.begin, node.end - node.begin);
}

std::string Json::shown() const {
  std::string_view all = raw();
  size_t at = 0;
  while (at < all.size() && at < 40)
    if (decode(all, at, true) < 0) break;
  const std::string text(all.substr(0, at));
  return is(JsonType::text) ? "'" + text + "'" : text;
}

std::optional<int64_t> Json::whole() const {
  const std::string_view s = raw();
  int64_t value = 0;
  const auto done = std::from_chars(s.data(), s.data() + s.size(), value);
  return done.ec == std::errc() ? std::optional(value) : std::nullopt;
}

double Json::real() const {
  const std::string_view s = raw();
  double value = 0;
  const auto done = std::from_chars(s.data(), s.data() + s.size(), value);
  if (done.ec == std::errc::result_out_of_range) return too_large(s) ? HUGE_VAL : 0.0;
  return value;
}

std::string Json::text() const {
  const std::string_view s = raw();
  std::string out;
  for (size_t i = 0; i < s.size(); ++i) {
    if (s[i] != '\\') {
      out += s[i];
      continue;
    }
    const char c = s[++i];
    if (c != 'u') {
      static constexpr std::string_view from = "bfnrt", to = "\b\f\n\r\t";
      const size_t which = from.find(c);
      out += which == std::string_view::npos ? c : to[which];
      continue;
    }
    auto point = static_cast<uint32_t>(four(s, i + 1));
    i += 4;
    if (point >= 0xD800 && point < 0xDC00 && s.substr(i + 1, 2) == "\\u") {
      const int32_t low = four(s, i + 3);
      if (low >= 0xDC00 && low < 0xE000) {
        point = 0x10000 + ((point - 0xD800) << 10) + static_cast<uint32_t>(low - 0xDC00);
        i += 6;
      }
    }
    encode(out, point);
  }
  return out;
}

std::optional<Json> Json::get(std::string_view key) const {
  std::optional<Json> found;
  fields([&](const std::string& name, Json value) {
    if (name == key) found = value;
  });
  return found;
}

bool printable(std::string_view text, size_t most) {
  static constexpr int32_t hidden[][2] = {
      {0, 0x1F},          {0x7F, 0xA0},       {0xAD, 0xAD},       {0x61C, 0x61C},     {0x1680, 0x1680},     {0x180E, 0x180E},
      {0x2000, 0x200F},   {0x2028, 0x202F},   {0x205F, 0x206F},   {0x3000, 0x3000},   {0xD800, 0xF8FF},     {0xFEFF, 0xFEFF},
      {0xFFF0, 0xFFFB},   {0xFFFE, 0xFFFF},   {0xE0000, 0xE00FF}, {0xE01F0, 0x10FFFF}};
  size_t count = 0;
  for (size_t at = 0; at < text.size(); ++count) {
    const int32_t point = decode(text, at, true);
    if (point < 0 || count == most) return false;
    for (auto [low, high] : hidden)
      if (point >= low && point <= high) return false;
  }
  return true;
}

}  // namespace picojoule::file
