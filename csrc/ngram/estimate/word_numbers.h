// The words met while counting, numbered in the order in which they were met.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace ctcspeech::ngram {

class WordTable {
 public:
  WordTable() : slots_(1 << 16, kEmpty) {}

  // The word's number; a new one if it was not met before.
  uint32_t add(std::string_view word) {
    const uint64_t hash = hash_of(word);
    for (size_t slot = hash & (slots_.size() - 1);; slot = (slot + 1) & (slots_.size() - 1)) {
      const uint32_t id = slots_[slot];
      if (id == kEmpty) return insert(word, hash, slot);
      if (hashes_[id] == hash && (*this)[id] == word) return id;
    }
  }

  // The word's number, or size() if it was not met.
  uint32_t find(std::string_view word) const {
    const uint64_t hash = hash_of(word);
    for (size_t slot = hash & (slots_.size() - 1);; slot = (slot + 1) & (slots_.size() - 1)) {
      const uint32_t id = slots_[slot];
      if (id == kEmpty) return size();
      if (hashes_[id] == hash && (*this)[id] == word) return id;
    }
  }

  std::string_view operator[](uint32_t id) const {
    return std::string_view(text_).substr(starts_[id], starts_[id + 1] - starts_[id]);
  }
  uint32_t size() const { return static_cast<uint32_t>(hashes_.size()); }
  size_t bytes() const {
    return slots_.capacity() * sizeof(uint32_t) + text_.capacity() +
           (hashes_.capacity() + starts_.capacity()) * sizeof(uint64_t);
  }

 private:
  static constexpr uint32_t kEmpty = 0xFFFFFFFFu;
  std::vector<uint32_t> slots_;
  std::vector<uint64_t> hashes_;
  std::vector<uint64_t> starts_{0};
  std::string text_;

  static uint64_t hash_of(std::string_view word) {  // FNV-1a, then a finaliser to spread the bits
    uint64_t h = 0xcbf29ce484222325ull;
    for (const unsigned char c : word) h = (h ^ c) * 0x100000001b3ull;
    h ^= h >> 32;
    h *= 0x9e3779b97f4a7c15ull;
    return h ^ (h >> 29);
  }

  uint32_t insert(std::string_view word, uint64_t hash, size_t slot) {
    const uint32_t id = size();
    hashes_.push_back(hash);
    text_.append(word);
    starts_.push_back(text_.size());
    slots_[slot] = id;
    if (2 * hashes_.size() > slots_.size()) {
      slots_.assign(2 * slots_.size(), kEmpty);
      for (uint32_t i = 0; i < size(); ++i) {
        size_t s = hashes_[i] & (slots_.size() - 1);
        while (slots_[s] != kEmpty) s = (s + 1) & (slots_.size() - 1);
        slots_[s] = i;
      }
    }
    return id;
  }
};

}  // namespace ctcspeech::ngram
