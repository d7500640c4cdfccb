#pragma once
// Layouts of weights for kernels that may run beside the event-driven one of a synapse, made from its rows.

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "fast.h"
#include "op.h"

namespace picojoule {

// Memory that begins where a line of the caches does: a vector that crosses two lines costs two loads.
template <class E>
struct Lines {
  using value_type = E;
  Lines() = default;
  template <class Other>
  Lines(const Lines<Other>&) {}
  E* allocate(size_t n) { return static_cast<E*>(::operator new(n * sizeof(E), std::align_val_t(64))); }
  void deallocate(E* p, size_t) { ::operator delete(p, std::align_val_t(64)); }
  template <class Other>
  bool operator==(const Lines<Other>&) const { return true; }
};

using WeightAt = std::function<int64_t(int64_t output, int64_t tap, int64_t channel)>;

// What a window takes from one image row: all its taps when they touch, else one tap. `job` has its shape and image.
struct Runs {
  Runs(const FastJob& job, int64_t multiple);
  void use(FastJob& job) const;

  int64_t together = 1, run = 0, runs = 0;  // taps, elements rounded up, and how many
  std::vector<int32_t> offsets;
};

// Dense words: runs of two products (fast_words.inl).
struct PairLayout {
  PairLayout(const FastJob& job, const WeightAt& weight);
  void use(FastJob& job) const;

  Runs runs;
  std::vector<int16_t, Lines<int16_t>> pairs;
};

// Dense bytes: runs of four products (fast_bytes.inl).
struct QuadLayout {
  QuadLayout(const FastJob& job, int64_t low, const WeightAt& weight);
  void use(FastJob& job) const;

  Runs runs;
  std::vector<int8_t, Lines<int8_t>> quads;
  std::vector<int32_t> lift;
};

// Static counting: the set bits of every output (fast_static.inl), from the rows of event_bits.
struct FixedLayout {
  explicit FixedLayout(const FastJob& job);
  void use(FastJob& job, int64_t lanes) const;

  std::vector<uint32_t> rows, starts;
  int planes = 0;
};

// Size of the image that dense bytes read: padded, channels last.
void set_image(FastJob& job);
// The images that dense words read; a window of one tap keeps only the pixels it reads.
void set_words(FastJob& job, const Kind& kind);

// Made when first needed, by whichever thread comes first.
template <class Layout>
class Lazy {
 public:
  ~Lazy() { delete made_.load(); }
  template <class Make>
  const Layout& get(std::mutex& mutex, const Make& make) const {
    if (const Layout* ready = made_.load(std::memory_order_acquire)) return *ready;
    std::lock_guard lock(mutex);
    if (!made_.load()) made_.store(make().release(), std::memory_order_release);
    return *made_.load();
  }

 private:
  mutable std::atomic<const Layout*> made_{nullptr};
};

}  // namespace picojoule
