#include "file_tune.h"

#include <fstream>
#include <iterator>
#include <optional>

#ifndef _WIN32
#include <sys/utsname.h>
#endif

#include "file_sha256.h"
#include "picojoule/version.h"

namespace picojoule::file {
namespace {

constexpr const char* kSuffix = ".tune.json";

[[noreturn]] void refuse(const std::string& field, const std::string& what) { throw FormatError("field '" + field + "': " + what); }

// The fields of an object that has exactly these, or of `some` at least the first.
void check_fields(Json object, const std::string& field, const std::vector<std::string>& wanted, size_t least) {
  if (!object.is(JsonType::object)) refuse(field, "must be an object");
  size_t known = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    const bool there = object.get(wanted[i]).has_value();
    if (!there && i < least) refuse(field, "needs " + wanted[i]);
    known += there;
  }
  if (known != object.size()) refuse(field, "has fields that this reader does not know");
}

std::string text_of(Json object, const char* key, const std::string& field) {
  const std::optional<Json> value = object.get(key);
  if (!value || !value->is(JsonType::text)) refuse(field + "." + key, "must be text");
  return value->text();
}

double boundary_of(Json value, const std::string& field) {
  double number = -1;
  if (value.is(JsonType::real)) number = value.real();
  if (value.is(JsonType::whole)) number = static_cast<double>(value.whole().value_or(-1));
  if (!(number >= 0 && number <= 1)) refuse(field, "must be a number in 0..1");
  return number;
}

void read_nodes(Json nodes, TuneTable& table) {
  if (!nodes.is(JsonType::object)) refuse("nodes", "must be an object");
  nodes.fields([&](const std::string& name, Json row) {
    const std::string field = "nodes." + name.substr(0, 40);
    check_fields(row, field, {"kernel", "boundary", "us"}, 1);
    table.kernels[name] = text_of(row, "kernel", field);
    if (const auto boundary = row.get("boundary")) table.boundaries[name] = boundary_of(*boundary, field + ".boundary");
  });
}

// True when the table was measured on this machine; else `differs` says how.
bool of_this_machine(Json machine, const std::string& isa, std::string& differs) {
  const std::pair<const char*, std::string> here[] = {{"processor", processor()}, {"isa", isa}, {"engine", kVersion}};
  check_fields(machine, "machine", {"processor", "isa", "engine"}, 3);
  for (auto& [key, value] : here) {
    const std::string found = text_of(machine, key, "machine");
    if (found != value) differs += (differs.empty() ? "" : ", ") + std::string(key) + " '" + found + "', here '" + value + "'";
  }
  return differs.empty();
}

}  // namespace

std::string processor() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    const size_t colon = line.find(':');
    if (line.rfind("model name", 0) != 0 || colon == std::string::npos) continue;
    const size_t first = line.find_first_not_of(" \t", colon + 1), last = line.find_last_not_of(" \t");
    return first == std::string::npos ? "" : line.substr(first, last - first + 1);
  }
#ifndef _WIN32
  utsname found{};
  if (uname(&found) == 0) return found.machine;
#endif
  return "";
}

TuneTable read_tune(const std::string& path, const Bytes& packed, const std::string& isa) {
  TuneTable table;
  std::ifstream stream(path + kSuffix, std::ios::binary);
  if (!stream) return table;
  const std::string name = path.substr(path.find_last_of('/') + 1) + kSuffix;
  try {
    std::string raw;
    for (char c; static_cast<int64_t>(raw.size()) <= kMaxText && stream.get(c);) raw += c;
    if (static_cast<int64_t>(raw.size()) > kMaxText) throw FormatError("more than " + std::to_string(kMaxText) + " bytes");
    const Document document(raw, "table");
    const Json root = document.root();
    check_fields(root, "table", {"format", "version", "file_sha256", "machine", "nodes"}, 5);
    const Json version = *root.get("version");
    if (text_of(root, "format", "table") != "picojoule tune" || !version.is(JsonType::whole) || version.whole() != 1)
      refuse("version", "this reader knows 'picojoule tune' 1");
    std::string differs;
    TuneTable found;
    read_nodes(*root.get("nodes"), found);
    if (!of_this_machine(*root.get("machine"), isa, differs)) {
      table.note = name + " is of another machine and ignored (" + differs + ")";
    } else if (text_of(root, "file_sha256", "table") != sha256(packed.data, packed.size)) {
      table.note = name + " belongs to another file and is ignored";
    } else {
      table = std::move(found);
      table.note = "kernels from " + name;
    }
  } catch (const FormatError& wrong) {
    table = {};
    table.note = name + " is damaged and ignored (" + wrong.what() + ")";
  }
  return table;
}

}  // namespace picojoule::file
