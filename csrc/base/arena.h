// Pieces of a block of memory that the caller owns.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ctcspeech {
namespace {  // each file its own copy: compiled for its own instruction set

// Hands out aligned pieces of a block of memory; with a null block it only counts them.
class Arena {
 public:
  explicit Arena(void* memory) : base_(static_cast<char*>(memory)) {}

  template <class T>
  T* take(int64_t count) {
    const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + 63) & ~size_t{63};
    char* piece = base_ ? base_ + used_ : nullptr;
    used_ += bytes;
    return reinterpret_cast<T*>(piece);
  }

  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

}  // namespace
}  // namespace ctcspeech
