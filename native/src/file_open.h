#pragma once
// The bytes of a file: mapped or copied.

#include <string>

#include "file_container.h"

namespace picojoule::file {

// The file cannot be opened or read, or is no longer what was mapped.
struct IoError : Error {
  using Error::Error;
};

class OpenFile {
 public:
  OpenFile(const std::string& path, bool map);
  explicit OpenFile(Bytes copied) : bytes_(std::move(copied)) {}
  ~OpenFile();
  OpenFile(const OpenFile&) = delete;

  const Bytes& bytes() const { return bytes_; }
  // Throws IoError when the file behind the mapping was written to or cut since it was opened: reading on would
  // see other weights, or end the process where pages are gone.
  void check() const;

 private:
  std::string path_;
  Bytes bytes_;
  int handle_ = -1;  // open while a mapping lives
  int64_t stamp_[3] = {0, 0, 0};
};

// A copy of the bytes.
Bytes copy_of(const void* data, size_t size);

}  // namespace picojoule::file
