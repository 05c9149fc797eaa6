// Sizing of the hash tables of the binary format.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "ngram/hash.h"

namespace ctcspeech::ngram {

// How many slots must follow the last bucket, and how far from its bucket an entry can come to stand:
// the larger of the two, when hashes are inserted by linear probing without wrapping around. The
// slots that end up occupied do not depend on the order of insertion, and neither does this bound.
inline uint64_t overflow_slots(const std::vector<uint64_t>& hashes, uint64_t buckets) {
  std::vector<uint32_t> load(buckets, 0);
  for (uint64_t hash : hashes) ++load[bucket_of(hash, buckets)];
  uint64_t waiting = 0, longest = 0, run = 0;  // entries pushed on; length of the current full run
  for (uint64_t b = 0; b < buckets || waiting > 0; ++b) {
    if (b < buckets) waiting += load[b];
    run = waiting > 0 ? run + 1 : 0;
    longest = std::max(longest, run);
    if (waiting > 0) --waiting;
  }
  return longest + 1;
}

}  // namespace ctcspeech::ngram
