// The lexicon: a trie over the bytes of the words, with the language model's look-ahead.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ctcspeech::beam {

constexpr uint32_t kNoWord = 0xFFFFFFFFu;

// Children of a node stand next to each other, in the order of their symbols, since nodes are numbered
// breadth first; the bytes that occur are numbered as symbols. With at most 64 symbols a node's
// children are a bit mask, and a child's place is the number of lower bits set. With more, `mask` is
// the number of children, and the child is found among their symbols by bisection.
//
// Look-ahead ("smearing": Steinbiss, Tran and Ney 1994): a node carries the best unigram value of the
// words below it, so that a word's score comes in as its letters do: `ratio` is what entering the node
// multiplies by, `inverse` takes back all of it when the true score is known.
struct TrieNode {
  uint64_t mask = 0;
  uint32_t first = 0;
  uint32_t word = kNoWord;  // of the word that ends here
  float ratio = 1;          // exp(look-ahead here - look-ahead of the parent)
  float inverse = 1;        // takes back the ratios from the root to here
};

class Trie {
 public:
  static constexpr uint32_t kRoot = 0, kNone = 0xFFFFFFFFu;

  // `words` ascending in byte order, without repetition and without empty words. Word i is number i.
  explicit Trie(const std::vector<std::string>& words);

  // The node reached from `node` by `byte`, or kNone.
  __attribute__((always_inline)) uint32_t child(uint32_t node, uint8_t byte) const {
    const uint32_t symbol = symbol_of_byte_[byte];
    const TrieNode& from = nodes_[node];
    if (!wide_) {
      if (symbol >= 64 || !(from.mask >> symbol & 1)) return kNone;
      const uint64_t lower = from.mask & ((uint64_t{1} << symbol) - 1);
      return from.first + static_cast<uint32_t>(__builtin_popcountll(lower));
    }
    uint32_t low = from.first, high = from.first + static_cast<uint32_t>(from.mask);
    const uint32_t end = high;
    while (low < high) {
      const uint32_t middle = (low + high) / 2;
      if (symbols_[middle] < symbol) low = middle + 1;
      else high = middle;
    }
    return low < end && symbols_[low] == symbol ? low : kNone;
  }
  const TrieNode& operator[](uint32_t node) const { return nodes_[node]; }
  size_t size() const { return nodes_.size(); }
  double max_ratio() const { return max_ratio_; }
  // Brings a node's children towards the processor.
  void prefetch_children(uint32_t node) const { __builtin_prefetch(&nodes_[nodes_[node].first]); }

  // Sets the look-ahead: values[i] is the (weighted, natural-log) value of word i.
  void look_ahead(const std::vector<double>& values);

 private:
  uint32_t num_children(uint32_t node) const {
    return wide_ ? static_cast<uint32_t>(nodes_[node].mask)
                 : static_cast<uint32_t>(__builtin_popcountll(nodes_[node].mask));
  }

  std::vector<TrieNode> nodes_;
  std::vector<uint16_t> symbols_;  // of each node, only where wide
  std::array<uint16_t, 256> symbol_of_byte_;
  bool wide_ = false;
  double max_ratio_ = 1;
};

}  // namespace ctcspeech::beam
