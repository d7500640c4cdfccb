// Replaces the heap of a test program: every block of 64 bytes or more ends at a page that may not be touched, or
// begins behind one (in turn), so that no access beyond a tensor goes unnoticed. Linked into forced_kernels by
// run_guarded.sh. Blocks keep the alignment that their element size implies.

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace {

constexpr size_t kPage = 4096, kSmall = 64;
std::atomic<uint32_t> turn{0};

constexpr size_t kRegion = size_t{1} << 40;  // addresses, used once and never again: nothing freed is read either

size_t up(size_t x, size_t to) { return (x + to - 1) / to * to; }

char* region() {
  static char* const base = [] {
    void* p = mmap(nullptr, kRegion, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) std::abort();
    return static_cast<char*>(p);
  }();
  return base;
}

std::atomic<size_t> used{0};

// [page with the size][guard][pages of the block][guard]
void* guarded(size_t size, size_t alignment) {
  const size_t pages = up(size, kPage), at = used.fetch_add(pages + 3 * kPage);
  if (at + pages + 3 * kPage > kRegion) std::abort();
  char *base = region() + at, *block = base + 2 * kPage;
  if (mprotect(base, kPage, PROT_READ | PROT_WRITE) || mprotect(block, pages, PROT_READ | PROT_WRITE)) throw std::bad_alloc();
  std::memcpy(base, &pages, sizeof pages);
  std::memset(block, 0xa5, pages);
  if (turn++ % 4) block += (pages - size) / alignment * alignment;  // ends at the guard, three times of four
  return block;
}

void give(void* block) {
  if (!block) return;
  const uintptr_t at = reinterpret_cast<uintptr_t>(block), base = reinterpret_cast<uintptr_t>(region());
  if (at < base || at >= base + kRegion) return std::free(block);
  char* first = reinterpret_cast<char*>(at / kPage * kPage);
  size_t pages;
  std::memcpy(&pages, first - 2 * kPage, sizeof pages);
  if (mmap(first - 2 * kPage, pages + 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
    std::abort();
}

void* take(size_t size, size_t alignment) {
  if (size >= kSmall) return guarded(size, alignment);
  void* block = std::malloc(size ? size : 1);
  if (!block) throw std::bad_alloc();
  return block;
}

// Largest power of two up to 16 that divides the size: an array's elements are never aligned more strictly.
size_t implied(size_t size) {
  size_t alignment = 16;
  while (size % alignment) alignment /= 2;
  return alignment;
}

}  // namespace

void* operator new(size_t size) { return take(size, implied(size)); }
void* operator new[](size_t size) { return take(size, implied(size)); }
void* operator new(size_t size, std::align_val_t alignment) { return guarded(size ? size : 1, static_cast<size_t>(alignment)); }
void* operator new[](size_t size, std::align_val_t alignment) { return guarded(size ? size : 1, static_cast<size_t>(alignment)); }
void operator delete(void* block) noexcept { give(block); }
void operator delete[](void* block) noexcept { give(block); }
void operator delete(void* block, size_t) noexcept { give(block); }
void operator delete[](void* block, size_t) noexcept { give(block); }
void operator delete(void* block, std::align_val_t) noexcept { give(block); }
void operator delete[](void* block, std::align_val_t) noexcept { give(block); }
void operator delete(void* block, size_t, std::align_val_t) noexcept { give(block); }
void operator delete[](void* block, size_t, std::align_val_t) noexcept { give(block); }
