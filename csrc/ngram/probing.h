// Querying the probing image: every order's slot is known from the words alone, so all are fetched at
// once and a query waits for memory about once.
#pragma once

#include "ngram/hash.h"
#include "ngram/image.h"

namespace ctcspeech::ngram {

struct ProbingView {
  struct Order {
    const unsigned char* slots = nullptr;
    uint64_t buckets = 0;
    uint64_t extra = 0;
  };
  explicit ProbingView(const Image& image);
  WordScore full_score(const State& in, WordIndex word, State& out) const;

  int order;
  uint64_t vocabulary_size;
  uint64_t seed;
  const UnigramRecord* unigrams;
  Order orders[kMaxOrder + 1];  // by n, from 2
};

}  // namespace ctcspeech::ngram
