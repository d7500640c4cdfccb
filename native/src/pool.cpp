#include "pool.h"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <thread>
#include <vector>

namespace picojoule {
namespace {

constexpr auto kSpin = std::chrono::microseconds(20);

struct Pool {
  std::mutex mutex;  // everything below but `epoch`
  std::condition_variable work, done;
  std::atomic<uint64_t> epoch{0};
  bool busy = false, open = false, spin = false;
  int wanted = 0, joined = 0, finished = 0;
  const FunctionRef<void(int)>* body = nullptr;
  std::exception_ptr error;
  int threads = 0;
};

// Leaked on purpose: workers may outlive static destruction, and a forked child abandons its parent's.
std::atomic<Pool*> current{nullptr};

void worker(Pool* pool) {
  uint64_t seen = 0;
  std::unique_lock lock(pool->mutex);
  for (;;) {
    if (pool->epoch.load() == seen) {
      if (pool->spin) {
        lock.unlock();
        const auto until = std::chrono::steady_clock::now() + kSpin;
        while (pool->epoch.load(std::memory_order_relaxed) == seen && std::chrono::steady_clock::now() < until) {
        }
        lock.lock();
      }
      pool->work.wait(lock, [&] { return pool->epoch.load() != seen; });
    }
    seen = pool->epoch.load();
    if (!pool->open || pool->joined >= pool->wanted) continue;
    const int index = ++pool->joined;
    auto* body = pool->body;
    lock.unlock();
    std::exception_ptr error;
    try {
      (*body)(index);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    if (error && !pool->error) pool->error = error;
    if (++pool->finished == pool->joined) pool->done.notify_all();
  }
}

Pool& pool() {
  static std::once_flag once;
  std::call_once(once, [] {
    current = new Pool;
    pthread_atfork(
        [] {
          list_mutex().lock();
          current.load()->mutex.lock();
        },
        [] {
          current.load()->mutex.unlock();
          list_mutex().unlock();
        },
        [] {
          current = new Pool;  // the parent's threads do not exist here
          list_mutex().unlock();
        });
  });
  return *current.load();
}

}  // namespace

std::mutex& list_mutex() {
  static std::mutex mutex;
  return mutex;
}

void run_on_workers(int workers, bool spin, FunctionRef<void(int)> body) {
  Pool& p = pool();
  if (workers > 1) {
    std::unique_lock lock(p.mutex);
    if (p.busy) {
      workers = 1;
    } else {
      p.busy = true;
      for (; p.threads < workers - 1; ++p.threads) std::thread(worker, &p).detach();
      p.spin = spin;
      p.wanted = workers - 1;
      p.joined = p.finished = 0;
      p.body = &body;
      p.error = nullptr;
      p.open = true;
      p.epoch.fetch_add(1);
      p.work.notify_all();
    }
  }
  if (workers <= 1) return body(0);
  std::exception_ptr error;
  try {
    body(0);
  } catch (...) {
    error = std::current_exception();
  }
  std::unique_lock lock(p.mutex);
  p.open = false;
  p.done.wait(lock, [&] { return p.finished == p.joined; });
  if (!error) error = p.error;
  p.busy = false;
  lock.unlock();
  if (error) std::rethrow_exception(error);
}

void split_over_workers(int64_t n, int64_t grain, int workers, bool spin,
                        FunctionRef<void(int64_t, int64_t, int)> body) {
  if (n <= 0) return;
  const int64_t pieces = (n + grain - 1) / grain;
  if (workers > pieces) workers = static_cast<int>(pieces);
  if (workers <= 1) return body(0, n, 0);
  std::atomic<int64_t> next{0};
  run_on_workers(workers, spin, [&](int worker) {
    for (int64_t piece = next++; piece < pieces; piece = next++) {
      const int64_t begin = piece * grain;
      body(begin, begin + grain < n ? begin + grain : n, worker);
    }
  });
}

}  // namespace picojoule
