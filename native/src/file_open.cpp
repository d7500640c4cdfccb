#include "file_open.h"

#include <cerrno>
#include <cstring>

#ifdef _WIN32
#include <fstream>
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace picojoule::file {

Bytes copy_of(const void* data, size_t size) {
  auto own = std::make_shared<std::vector<std::byte>>(size);
  if (size) std::memcpy(own->data(), data, size);
  return {own, own->data(), size};
}

#ifdef _WIN32

OpenFile::OpenFile(const std::string& path, bool) : path_(path) {
  std::ifstream stream(path, std::ios::binary | std::ios::ate);
  if (!stream) throw IoError(path + ": cannot be opened");
  const auto size = static_cast<int64_t>(stream.tellg());
  if (size > kMaxFile) throw FormatError(path + ": has " + std::to_string(size) + " bytes, at most 2^32 are read");
  std::vector<char> raw(static_cast<size_t>(size));
  stream.seekg(0).read(raw.data(), size);
  if (!stream) throw IoError(path + ": cannot be read");
  bytes_ = copy_of(raw.data(), raw.size());
}
OpenFile::~OpenFile() = default;
void OpenFile::check() const {}

#else

namespace {

void stamp_of(const struct stat& found, int64_t (&stamp)[3]) {
  stamp[0] = found.st_size;
#ifdef __APPLE__
  stamp[1] = found.st_mtimespec.tv_sec, stamp[2] = found.st_mtimespec.tv_nsec;
#else
  stamp[1] = found.st_mtim.tv_sec, stamp[2] = found.st_mtim.tv_nsec;
#endif
}

std::shared_ptr<const void> mapping(int handle, size_t size) {
  void* at = mmap(nullptr, size, PROT_READ, MAP_SHARED, handle, 0);
  if (at == MAP_FAILED) return nullptr;  // a file system without mappings: it is copied
  return {at, [size](const void* p) { munmap(const_cast<void*>(p), size); }};
}

}  // namespace

OpenFile::OpenFile(const std::string& path, bool map) : path_(path) {
  const int handle = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  const auto fail = [&](const std::string& what) {
    const std::string text = path + ": " + what + (errno ? std::string(" (") + std::strerror(errno) + ")" : "");
    if (handle >= 0) close(handle);
    throw IoError(text);
  };
  if (handle < 0) fail("cannot be opened");
  struct stat found {};
  if (fstat(handle, &found)) fail("cannot be read");
  errno = 0;
  std::string wrong;
  if (!S_ISREG(found.st_mode)) wrong = " is not a regular file";
  else if (found.st_size > kMaxFile) wrong = " has " + std::to_string(found.st_size) + " bytes, at most 4294967296 are read";
  if (!wrong.empty()) {
    close(handle);
    throw FormatError("'" + path + "'" + wrong);
  }
  const auto size = static_cast<size_t>(found.st_size);
  stamp_of(found, stamp_);
  if (map && size > 0)
    if (auto mapped = mapping(handle, size)) {
      bytes_ = {mapped, static_cast<const std::byte*>(mapped.get()), size};
      handle_ = handle;
      return;
    }
  auto own = std::make_shared<std::vector<std::byte>>(size);
  for (size_t at = 0; at < size;) {
    const ssize_t n = ::read(handle, own->data() + at, size - at);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail("ended after " + std::to_string(at) + " bytes");
    at += static_cast<size_t>(n);
  }
  close(handle);
  bytes_ = {own, own->data(), size};
}

OpenFile::~OpenFile() {
  if (handle_ >= 0) close(handle_);
}

void OpenFile::check() const {
  if (handle_ < 0) return;
  struct stat found {};
  int64_t now[3] = {-1, 0, 0};
  if (fstat(handle_, &found) == 0) stamp_of(found, now);
  if (std::memcmp(now, stamp_, sizeof now) != 0)
    throw IoError(path_ + ": was changed while it was mapped; load it again, replace files by renaming, or load without a mapping");
}

#endif

}  // namespace picojoule::file
