#include "beam/hot_words.h"

#include <algorithm>

namespace ctcspeech::beam {

HotWords::HotWords(const std::vector<std::pair<std::vector<uint32_t>, double>>& phrases) {
  nodes_.emplace_back();
  for (const auto& [words, weight] : phrases) {
    uint32_t node = 0;
    for (size_t i = 0; i < words.size(); ++i) {
      auto [found, added] =
          nodes_[node].next.try_emplace(words[i], static_cast<uint32_t>(nodes_.size()));
      node = found->second;
      if (added) nodes_.emplace_back();
      if (i + 1 < words.size()) {
        const double part = weight * static_cast<double>(i + 1) / static_cast<double>(words.size());
        nodes_[node].credit = std::max(nodes_[node].credit, part);
      }
    }
    if (node != 0) nodes_[node].reward += weight;
  }
  // Breadth first: a node's failure link is the longest proper suffix that is itself in the tree.
  std::vector<uint32_t> queue;
  for (const auto& child : nodes_[0].next) queue.push_back(child.second);
  for (size_t i = 0; i < queue.size(); ++i) {
    const uint32_t node = queue[i];
    for (const auto& [word, child] : nodes_[node].next) {
      uint32_t fail = nodes_[node].fail;
      while (fail != 0 && nodes_[fail].next.count(word) == 0) fail = nodes_[fail].fail;
      const auto found = nodes_[fail].next.find(word);
      nodes_[child].fail = found == nodes_[fail].next.end() ? 0 : found->second;
      queue.push_back(child);
    }
    nodes_[node].reward += nodes_[nodes_[node].fail].reward;
    nodes_[node].credit = std::max(nodes_[node].credit, nodes_[nodes_[node].fail].credit);
  }
}

uint32_t HotWords::step(uint32_t state, uint32_t word, double& bonus) const {
  uint32_t node = state;
  for (;;) {
    const auto found = nodes_[node].next.find(word);
    if (found != nodes_[node].next.end()) {
      node = found->second;
      break;
    }
    if (node == 0) break;
    node = nodes_[node].fail;
  }
  bonus = nodes_[node].credit - nodes_[state].credit + nodes_[node].reward;
  return node;
}

}  // namespace ctcspeech::beam
