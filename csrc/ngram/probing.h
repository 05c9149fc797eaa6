// Querying the probing image: every order's slot is known from the words alone, so all are fetched at
// once and a query waits for memory about once.
#pragma once

#include <memory>
#include <vector>

#include "ngram/hash.h"
#include "ngram/image.h"
#include "ngram/vocabulary.h"

namespace ctcspeech::ngram {

// What a probing image is made of; i counts the n-grams of an order. Probabilities have the sign of
// the format, keys are stored keys.
class ProbingSource {
 public:
  virtual ~ProbingSource() = default;
  virtual Header header() const = 0;  // order, flags, bos, eos, vocabulary_size, counts, seed
  virtual const Vocabulary& vocabulary() const = 0;
  virtual UnigramRecord unigram(uint64_t i) const = 0;
  virtual std::vector<uint64_t> keys(int n) const = 0;
  virtual ProbingRecord record(int n, uint64_t i) const = 0;  // its key counts not
};

// Throws Error where two n-grams have one key.
std::unique_ptr<Image> build_probing(const ProbingSource& source);

struct ProbingView {
  struct Order {
    const unsigned char* slots = nullptr;
    uint64_t buckets = 0;
    uint64_t extra = 0;
  };
  explicit ProbingView(const Image& image);
  WordScore full_score(const State& in, WordIndex word, State& out) const {
    return kenlm_keys ? score<true>(in, word, out) : score<false>(in, word, out);
  }
  void check_values() const;  // throws Error

  int order;
  uint64_t vocabulary_size;
  uint64_t seed;
  bool kenlm_keys;
  const UnigramRecord* unigrams;
  Order orders[kMaxOrder + 1];  // by n, from 2

 private:
  template <bool kKenlmKeys>
  WordScore score(const State& in, WordIndex word, State& out) const;
};

}  // namespace ctcspeech::ngram
