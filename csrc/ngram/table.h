// All n-grams of a model as plain arrays: what is read from ARPA files, merged, and made into images.
#pragma once

#include <cmath>
#include <memory>
#include <vector>

#include "ngram/vocabulary.h"

namespace ctcspeech::ngram {

// The n-grams of one order. words holds n indices an entry, newest first: "a b c" is c, b, a.
struct Level {
  explicit Level(int n) : n(n) {}
  int n;
  std::vector<WordIndex> words;
  std::vector<float> probability;  // log10
  std::vector<float> backoff;      // log10; see ngram/format.h for the two zeros
  std::vector<uint8_t> extends_left;  // set by complete(): a longer n-gram ends in this one

  size_t size() const { return probability.size(); }
  const WordIndex* entry(size_t i) const { return words.data() + i * n; }
  void push(const WordIndex* newest_first, float log10, float weight) {
    words.insert(words.end(), newest_first, newest_first + n);
    probability.push_back(log10);
    backoff.push_back(weight);
  }
};

// Finds entries of a level by their words. The level may grow; insert() must see each new entry.
class LevelIndex {
 public:
  static constexpr uint64_t kNone = ~0ull;
  explicit LevelIndex(const Level& level, uint64_t expected = 0);
  uint64_t find(const WordIndex* newest_first) const;
  // Enters entry i; false if the same n-gram is there already.
  bool insert(uint64_t i);

 private:
  uint64_t hash(const WordIndex* words) const;
  void rebuild(uint64_t slots);
  const Level& level_;
  uint64_t used_ = 0, mask_ = 0;
  std::vector<uint64_t> slots_;  // 24 bits of hash, 40 bits of index; kNone: empty
};

struct Table {
  Vocabulary vocabulary;
  std::vector<Level> levels;  // levels[n - 1]; entry i of levels[0] is word i
  bool has_unknown = false;
  WordIndex bos = 0, eos = 0;

  int order() const { return static_cast<int>(levels.size()); }
  // Makes the table ready for images. Adds the n-grams that a longer one's prefix or suffix lacks (as
  // pruned models of SRILM do), with the probability that backing off gives them, which leaves every
  // score as it was; sets extends_left and the sign of zero backoffs. `index`, by order - 1, is that
  // of the levels where the caller has it.
  void complete(std::vector<std::unique_ptr<LevelIndex>> index = {});
};

// Images of a complete()d table. Bits of 0 keep the floats; else probability_bits from 1, backoff_bits
// from 2, to kMaxCodeBits.
constexpr int kMaxCodeBits = 24;
std::unique_ptr<Image> build_probing(const Table& table);
std::unique_ptr<Image> build_trie(const Table& table, int probability_bits, int backoff_bits);

// The n-grams of a trie image. (A probing image cannot be listed: it keeps hashes only.)
std::unique_ptr<Table> trie_table(const Image& image);

// The static linear interpolation of two models: see ngram/mix.cpp.
std::unique_ptr<Table> mix(const Table& first, const Table& second, double first_weight);

}  // namespace ctcspeech::ngram
