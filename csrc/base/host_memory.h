// Memory on the host that calls have in common: a workspace, and large results that are used again.
//
// Pages fresh from the system are cleared one by one when first written: for the gradient of a batch with
// thousands of classes that takes as long as computing it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace ctcspeech {

struct FreeMemory {
  void operator()(void* p) const { std::free(p); }
};
using HostMemory = std::unique_ptr<void, FreeMemory>;

inline HostMemory allocate_host(size_t bytes, size_t alignment = 64) {
  void* p = std::aligned_alloc(alignment, (bytes + alignment - 1) & ~(alignment - 1));
  if (!p) throw std::bad_alloc();
  return HostMemory(p);
}

// A workspace for the length of a call. The last one of modest size is kept for the next call, so that
// training does not pay for fresh pages at each step; a second thread calling meanwhile gets its own.
class HostWorkspace {
 public:
  explicit HostWorkspace(size_t bytes) : lock_(mutex(), std::try_to_lock), bytes_(bytes) {
    if (bytes == 0) bytes = 64;
    if (!lock_.owns_lock() || bytes > kKeep) {
      own_ = allocate_host(bytes);
      return;
    }
    if (kept_bytes() < bytes) {
      kept().reset();
      kept_bytes() = 0;
      kept() = allocate_host(bytes);
      kept_bytes() = bytes;
    }
  }
  void* get() const { return own_ ? own_.get() : kept().get(); }
  size_t bytes() const { return bytes_; }

 private:
  static constexpr size_t kKeep = size_t{32} << 20;
  static std::mutex& mutex() {
    static std::mutex m;
    return m;
  }
  static HostMemory& kept() {
    static HostMemory m;
    return m;
  }
  static size_t& kept_bytes() {
    static size_t bytes = 0;
    return bytes;
  }
  std::unique_lock<std::mutex> lock_;
  size_t bytes_;
  HostMemory own_;
};

// Blocks for large results. The one given back last waits for the next call, and meanwhile the system may
// take its pages if it needs them.
class LargeBlock {
 public:
  static LargeBlock* take(size_t bytes) {
    LargeBlock* spare;
    {
      const std::lock_guard<std::mutex> guard(mutex());
      spare = waiting();
      waiting() = nullptr;
    }
    if (spare && (spare->bytes_ < bytes || spare->bytes_ / 4 > bytes)) {
      delete spare;
      spare = nullptr;
    }
    return spare ? spare : new LargeBlock(bytes);
  }

  void give_back() {
    if (bytes_ > kKeep) {
      delete this;
      return;
    }
    may_be_taken();
    LargeBlock* former;
    {
      const std::lock_guard<std::mutex> guard(mutex());
      former = waiting();
      waiting() = this;
    }
    delete former;
  }

  void* get() const { return memory_.get(); }

 private:
  static constexpr size_t kKeep = size_t{1} << 30, kHugePage = size_t{2} << 20, kPage = 4096;

  explicit LargeBlock(size_t bytes)
      : page_(bytes < kHugePage ? kPage : kHugePage),
        bytes_((bytes + page_ - 1) / page_ * page_),
        memory_(allocate_host(bytes_, page_)) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)  // hints: they may fail
    if (page_ == kHugePage) madvise(memory_.get(), bytes_, MADV_HUGEPAGE);
#endif
  }

  void may_be_taken() {
#if defined(__linux__) && defined(MADV_FREE)
    if (page_ == kHugePage) madvise(memory_.get(), bytes_, MADV_FREE);
#endif
  }

  static std::mutex& mutex() {
    static std::mutex m;
    return m;
  }
  static LargeBlock*& waiting() {
    static LargeBlock* block = nullptr;
    return block;
  }

  size_t page_, bytes_;
  HostMemory memory_;
};

}  // namespace ctcspeech
