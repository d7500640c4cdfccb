// Damaged packed files through the C interface: every mutant must be refused with a message or load and run, without
// any sanitizer's complaint, in time and in memory that its size allows.
// Usage: fuzz_reader cases seed file.pj...

#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "picojoule/picojoule.h"

namespace {

using Bytes = std::string;

struct Dice {
  std::mt19937_64 engine;
  uint64_t below(uint64_t n) { return n ? engine() % n : 0; }
  bool chance(int percent) { return below(100) < static_cast<uint64_t>(percent); }
};

constexpr int64_t kEdges[] = {-1, 0, 1, 2, 3, 7, 8, 63, 64, 127, 128, 255, 256, 1023, 65535, 65536, INT32_MAX, INT64_C(2147483648),
                              INT64_C(4294967296), INT64_C(9007199254740992), INT64_C(4611686018427387904), INT64_MAX, INT64_MIN};
const char* const kWords[] = {"\"x\"", "\"Conv\"", "\"Scan\"", "\"binary\"", "\"ternary\"", "\"real\"", "\"integer(4)\"", "\"fixed(63, 0)\"",
                              "\"fixed(1, 9)\"", "\"sign\"", "\"int\"", "\"codebook\"", "\"half_up\"", "\"hard\"", "\"none\"", "\"max\"",
                              "\"sum\"", "\"view\"", "\"pad\"", "\"\"", "\"\\u0000\"", "\"\\ud800\"", "null", "true", "false", "[]", "{}",
                              "[[1]]", "1.5", "-0", "1e999", "1e-999", "NaN", "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]"};

// A file taken apart: header JSON, and the bytes of its tensors.
struct Parts {
  Bytes head, data;
};

Parts apart(const Bytes& raw) {
  uint64_t length = 0;
  std::memcpy(&length, raw.data(), 8);
  return {raw.substr(8, length), raw.substr(8 + length)};
}

Bytes whole(Bytes head, const Bytes& data) {
  head.resize((head.size() + 7) / 8 * 8, ' ');
  const uint64_t length = head.size();
  return Bytes(reinterpret_cast<const char*>(&length), 8) + head + data;
}

// Where a value of JSON text begins and ends: a number, a word in quotes, true, false or null.
bool token(const Bytes& text, Dice& dice, size_t& begin, size_t& end) {
  for (int tries = 0; tries < 50 && !text.empty(); ++tries) {
    begin = dice.below(text.size());
    const char c = text[begin];
    const bool number = (c >= '0' && c <= '9') || c == '-';
    if (number) {
      while (begin > 0 && std::strchr("0123456789-", text[begin - 1])) --begin;
      end = begin + 1;
      while (end < text.size() && std::strchr("0123456789.e", text[end]) && text[end]) ++end;
      return true;
    }
    if (c == '"') {
      end = text.find('"', begin + 1);
      if (end == Bytes::npos) continue;
      ++end;
      return true;
    }
  }
  return false;
}

void damage_json(Bytes& text, Dice& dice) {
  size_t begin = 0, end = 0;
  if (!token(text, dice, begin, end)) return;
  switch (dice.below(6)) {
    case 0: text.replace(begin, end - begin, std::to_string(kEdges[dice.below(std::size(kEdges))])); break;
    case 1: text.replace(begin, end - begin, kWords[dice.below(std::size(kWords))]); break;
    case 2: text.erase(begin, end - begin + 1); break;
    case 3: {  // another value of the same text
      size_t b = 0, e = 0;
      if (token(text, dice, b, e)) text.replace(begin, end - begin, text.substr(b, e - b));
      break;
    }
    case 4: text.replace(begin, end - begin, std::to_string(std::atoll(text.substr(begin, 18).c_str()) + static_cast<int64_t>(dice.below(5)) - 2)); break;
    default: {  // from brace to brace: a whole object twice
      const size_t from = text.rfind('{', begin), to = text.find('}', begin);
      if (from != Bytes::npos && to != Bytes::npos) text.insert(to + 1, "," + text.substr(from, to - from + 1));
    }
  }
}

Bytes damage_bytes(Bytes raw, const std::vector<Bytes>& files, Dice& dice) {
  for (uint64_t n = 1 + dice.below(4); n > 0 && !raw.empty(); --n) {
    const size_t at = dice.below(raw.size());
    switch (dice.below(5)) {
      case 0: raw[at] = static_cast<char>(raw[at] ^ (1 << dice.below(8))); break;
      case 1: {
        const int64_t edge = kEdges[dice.below(std::size(kEdges))];
        raw.replace(at, std::min<size_t>(8, raw.size() - at), reinterpret_cast<const char*>(&edge), 8);
        break;
      }
      case 2: raw.resize(at); break;
      case 3: {
        const Bytes& other = files[dice.below(files.size())];
        raw.insert(at, other.substr(dice.below(other.size()), 1 + dice.below(64)));
        break;
      }
      default: raw.erase(at, 1 + dice.below(32));
    }
  }
  return raw;
}

// The JSON of `graph` changed, with the sizes of header and tensors right again.
Bytes damage_graph(const Bytes& raw, Dice& dice) {
  Parts p = apart(raw);
  const size_t entry = p.head.find("\"graph\":{");
  long begin = 0, end = 0;
  if (entry == Bytes::npos) return raw;
  const size_t offsets = p.head.find("\"data_offsets\":[", entry);
  if (offsets == Bytes::npos || std::sscanf(p.head.c_str() + offsets, "\"data_offsets\":[%ld,%ld]", &begin, &end) != 2) return raw;
  Bytes text = p.data.substr(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
  for (uint64_t n = 1 + dice.below(2); n > 0; --n) damage_json(text, dice);
  // The writer puts bytes last and sorts names: what follows `graph` would move, so it is padded to its old size, or
  // grows when it is the last.
  const bool last = static_cast<size_t>(end) == p.data.size();
  if (!last && text.size() > static_cast<size_t>(end - begin)) return damage_bytes(raw, {raw}, dice);
  if (!last) text.resize(static_cast<size_t>(end - begin), ' ');
  const Bytes size = std::to_string(text.size()), stop = std::to_string(begin + static_cast<long>(text.size()));
  const size_t close = p.head.find('}', entry);
  p.head.replace(entry, close - entry + 1,
                 "\"graph\":{\"dtype\":\"U8\",\"shape\":[" + size + "],\"data_offsets\":[" + std::to_string(begin) + "," + stop + "]}");
  p.data = p.data.substr(0, static_cast<size_t>(begin)) + text + p.data.substr(static_cast<size_t>(end));
  return whole(p.head, p.data);
}

Bytes mutant(const std::vector<Bytes>& files, Dice& dice) {
  const Bytes& raw = files[dice.below(files.size())];
  if (dice.chance(35)) return damage_bytes(raw, files, dice);
  if (dice.chance(70)) return damage_graph(raw, dice);
  Parts p = apart(raw);
  if (dice.chance(50)) {
    damage_json(p.head, dice);
  } else {
    for (uint64_t n = 1 + dice.below(3); n > 0 && !p.data.empty(); --n) p.data[dice.below(p.data.size())] = static_cast<char>(dice.below(256));
  }
  return whole(p.head, p.data);
}

// Runs one sample when it is cheap; the status of the run.
pj_status execute(const pj_model* model) {
  pj_info info;
  if (pj_describe(model, &info) != PJ_OK) return PJ_ERROR_INTERNAL;
  if (info.arena_bytes > 1 << 20) return PJ_OK;
  std::vector<std::vector<uint8_t>> bytes;
  std::vector<std::vector<int64_t>> results;
  std::vector<pj_input> inputs;
  std::vector<pj_output> outputs;
  for (size_t i = 0; i < info.inputs; ++i) {
    pj_edge edge;
    pj_describe_input(model, i, &edge);
    bytes.emplace_back(static_cast<size_t>(edge.count), uint8_t{1});
    inputs.push_back({nullptr, PJ_U8, static_cast<size_t>(edge.count)});
  }
  for (size_t i = 0; i < info.outputs; ++i) {
    pj_edge edge;
    pj_describe_output(model, i, &edge);
    results.emplace_back(static_cast<size_t>(edge.count));
    outputs.push_back({nullptr, PJ_I64, static_cast<size_t>(edge.count)});
  }
  for (size_t i = 0; i < info.inputs; ++i) inputs[i].data = bytes[i].data();
  for (size_t i = 0; i < info.outputs; ++i) outputs[i].data = results[i].data();
  return pj_run(model, 1, inputs.data(), inputs.size(), outputs.data(), outputs.size());
}

long peak_mib() {
  rusage use{};
  getrusage(RUSAGE_SELF, &use);
  return use.ru_maxrss / 1024;
}

}  // namespace

int main(int count, char** words) {
  if (count < 4) {
    std::fprintf(stderr, "use: fuzz_reader cases seed file.pj...\n");
    return 2;
  }
  const long cases = std::atol(words[1]), seed = std::atol(words[2]);
  std::vector<Bytes> files;
  for (int i = 3; i < count; ++i) {
    std::ifstream stream(words[i], std::ios::binary);
    files.emplace_back(std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>());
    if (files.back().size() < 16) {
      std::fprintf(stderr, "%s: not a packed file\n", words[i]);
      return 2;
    }
  }
  std::map<std::string, long> outcomes;
  double slowest = 0;
  pj_options options;
  pj_options_init(&options);
  options.max_bytes = 1 << 26;
  for (long i = 0; i < cases; ++i) {
    Dice dice{std::mt19937_64(static_cast<uint64_t>(seed) * 1000003u + static_cast<uint64_t>(i))};
    const Bytes raw = mutant(files, dice);
    const auto start = std::chrono::steady_clock::now();
    pj_model* model = nullptr;
    const pj_status loaded = pj_load_memory(raw.data(), raw.size(), &options, &model);
    const pj_status status = loaded == PJ_OK ? execute(model) : loaded;
    pj_free(model);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    slowest = std::max(slowest, seconds);
    ++outcomes[std::string(loaded == PJ_OK ? "loaded, then " : "refused: ") + pj_status_text(status)];
    if (status == PJ_ERROR_INTERNAL || (status != PJ_OK && !pj_last_error()[0]) || seconds > 20) {
      std::fprintf(stderr, "case %ld of seed %ld: %s after %.1f s: %s\n", i, seed, pj_status_text(status), seconds, pj_last_error());
      return 1;
    }
  }
  std::printf("%ld mutants, slowest %.2f s, peak %ld MiB:", cases, slowest, peak_mib());
  for (auto& [what, n] : outcomes) std::printf(" %s %ld;", what.c_str(), n);
  std::printf("\n");
  return outcomes["loaded, then done"] > cases / 100 ? 0 : 1;
}
