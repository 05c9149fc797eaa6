#include "beam/lexicon.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace ctcspeech::beam {

namespace {

constexpr double kLimit = 40;  // in natural logarithms: a product of two such ratios is a float

}  // namespace

Trie::Trie(const std::vector<std::string>& words) {
  std::array<bool, 256> occurs{};
  for (const std::string& word : words)
    for (const char c : word) occurs[static_cast<uint8_t>(c)] = true;
  uint16_t count = 0;
  for (int byte = 0; byte < 256; ++byte) symbol_of_byte_[byte] = occurs[byte] ? count++ : 0xFFFF;
  wide_ = count > 64;

  struct Range {  // the words low..high share their first `depth` bytes and run through `node`
    size_t low, high;
    size_t depth;
  };
  std::vector<Range> queue{{0, words.size(), 0}};
  nodes_.emplace_back();
  symbols_.push_back(0);
  for (uint32_t node = 0; node < queue.size(); ++node) {
    const Range range = queue[node];
    size_t i = range.low;
    if (i < range.high && words[i].size() == range.depth) {
      nodes_[node].word = static_cast<uint32_t>(i);
      ++i;
    }
    nodes_[node].first = static_cast<uint32_t>(nodes_.size());
    while (i < range.high) {
      const char byte = words[i][range.depth];
      size_t end = i + 1;
      while (end < range.high && words[end][range.depth] == byte) ++end;
      const uint16_t symbol = symbol_of_byte_[static_cast<uint8_t>(byte)];
      nodes_[node].mask = wide_ ? nodes_[node].mask + 1 : nodes_[node].mask | uint64_t{1} << symbol;
      nodes_.emplace_back();
      if (wide_) symbols_.push_back(symbol);
      queue.push_back({i, end, range.depth + 1});
      i = end;
    }
  }
}

void Trie::look_ahead(const std::vector<double>& values) {
  std::vector<double> best(nodes_.size(), -std::numeric_limits<double>::infinity());
  for (size_t node = nodes_.size(); node-- > 0;) {  // children have higher numbers
    const TrieNode& n = nodes_[node];
    if (n.word != kNoWord) best[node] = values[n.word];
    const uint32_t children = num_children(static_cast<uint32_t>(node));
    for (uint32_t c = 0; c < children; ++c) best[node] = std::max(best[node], best[n.first + c]);
  }
  // What was put in is taken out again at the word's end, so limits only keep exp() finite.
  for (double& value : best) value = std::clamp(value, -kLimit, kLimit);
  best[kRoot] = 0;
  max_ratio_ = 1;
  std::vector<double> entered(nodes_.size(), 1);  // the product of the ratios as they were rounded
  for (size_t node = 0; node < nodes_.size(); ++node) {
    nodes_[node].inverse = static_cast<float>(1 / entered[node]);
    const uint32_t children = num_children(static_cast<uint32_t>(node));
    for (uint32_t c = nodes_[node].first; c < nodes_[node].first + children; ++c) {
      nodes_[c].ratio = static_cast<float>(std::exp(best[c] - best[node]));
      entered[c] = entered[node] * nodes_[c].ratio;
      max_ratio_ = std::max<double>(max_ratio_, nodes_[c].ratio);
    }
  }
}

}  // namespace ctcspeech::beam
