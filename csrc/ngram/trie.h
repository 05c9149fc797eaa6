// Querying the trie image: the smallest form. From the newest word to the oldest, each step searches
// the children of the last in bit-packed, sorted records.
#pragma once

#include "ngram/hash.h"
#include "ngram/table.h"

namespace ctcspeech::ngram {

// Numbers of up to 57 bits at any bit of a section that ends in 8 bytes of padding.
inline uint64_t read_bits(const unsigned char* bytes, uint64_t bit, int width) {
  uint64_t chunk;
  std::memcpy(&chunk, bytes + (bit >> 3), 8);
  return (chunk >> (bit & 7)) & ((1ull << width) - 1);
}
inline void write_bits(unsigned char* bytes, uint64_t bit, int width, uint64_t value) {
  uint64_t chunk;
  std::memcpy(&chunk, bytes + (bit >> 3), 8);
  const uint64_t mask = ((1ull << width) - 1) << (bit & 7);
  chunk = (chunk & ~mask) | (value << (bit & 7));
  std::memcpy(bytes + (bit >> 3), &chunk, 8);
}

// Bits to hold every number from 0 to `largest`.
inline int bits_for(uint64_t largest) {
  int bits = 1;
  while (bits < 63 && (largest >> bits) != 0) ++bits;
  return bits;
}

// Where the fields of one order's records lie.
struct TrieLayout {
  int word_bits = 0, probability_bits = 0, backoff_bits = 0, pointer_bits = 0;
  int record_bits() const { return word_bits + probability_bits + backoff_bits + pointer_bits; }
  int backoff_at() const { return word_bits + probability_bits; }
  int pointer_at() const { return backoff_at() + backoff_bits; }
};

constexpr int kFloatBits = 32, kUnsignedFloatBits = 31;  // of what is not quantised
constexpr int kMaxPointerBits = 41;
constexpr uint64_t kMaxEntries = 1ull << 40;

// Size of a section of records.
inline uint64_t trie_bytes(const TrieLayout& layout, uint64_t entries, bool has_children) {
  const uint64_t bits = (entries + (has_children ? 1 : 0)) * static_cast<uint64_t>(layout.record_bits());
  return (bits + 7) / 8 + 8;
}

struct TrieView {
  struct Order {
    const unsigned char* records = nullptr;
    uint64_t entries = 0;
    TrieLayout layout;
    const float* probability_codes = nullptr;  // where quantised
    const float* backoff_codes = nullptr;

    uint64_t bit(uint64_t i) const { return i * static_cast<uint64_t>(layout.record_bits()); }
    WordIndex word(uint64_t i) const {
      return static_cast<WordIndex>(read_bits(records, bit(i), layout.word_bits));
    }
    float probability(uint64_t i) const;
    float backoff(uint64_t i) const;
    uint64_t first_child(uint64_t i) const {
      return read_bits(records, bit(i) + layout.pointer_at(), layout.pointer_bits);
    }
  };
  struct Range {
    uint64_t begin, end;
    bool empty() const { return begin >= end; }
  };

  explicit TrieView(const Image& image);
  WordScore full_score(const State& in, WordIndex word, State& out) const;
  void check_values() const;  // throws Error
  // The children, in order n + 1, of entry i of order n; never outside of that order's records.
  Range children(int n, uint64_t i) const;

  int order;
  uint64_t vocabulary_size;
  const TrieUnigramRecord* unigrams;
  Order orders[kMaxOrder + 1];  // by n, from 2
};

}  // namespace ctcspeech::ngram
