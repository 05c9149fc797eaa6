// Hot words and phrases: words that the user expects, with a bonus (or a malus) for each.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

namespace ctcspeech::beam {

// An automaton over words (Aho and Corasick 1975) that gives each occurrence of a phrase its weight.
// A positive weight is paid in equal parts as the phrase's words come, and taken back where the
// phrase breaks off, so that a phrase is helped before it is complete.
class HotWords {
 public:
  // Phrases as word numbers of the lexicon, with their weights in natural logarithms.
  explicit HotWords(const std::vector<std::pair<std::vector<uint32_t>, double>>& phrases);

  // The state after a word, and the bonus that the step earns.
  uint32_t step(uint32_t state, uint32_t word, double& bonus) const;
  // What is taken back where the text ends in the middle of a phrase.
  double finish(uint32_t state) const { return -nodes_[state].credit; }

 private:
  struct Node {
    std::unordered_map<uint32_t, uint32_t> next;
    uint32_t fail = 0;
    double credit = 0;  // paid so far for a phrase not yet complete
    double reward = 0;  // of all phrases that end here
  };
  std::vector<Node> nodes_;
};

}  // namespace ctcspeech::beam
