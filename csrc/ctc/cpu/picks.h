// gamma by label position to sums by place, where a table row is at most two vectors: for each block of
// labels a few permutations, each of which brings one occurrence of up to W places to the place's lane.
// V is a vector with a small table (base/vec_portable.h).
#pragma once

#include <cstdint>
#include <cstring>

namespace ctcspeech {
namespace {

template <class V>
struct Picks {
  static constexpr int W = V::W;
  // Beyond so many a block in the mean (labels that repeat a lot), transposing is quicker.
  static constexpr int64_t kMost = 7;

  struct Block {
    int32_t first, lower, upper;  // first permutation, how many for places below W, and from W on
  };
  Block* blocks;
  int32_t* lanes;  // permutation i: lane c of the sum takes lane lanes[i * W + c], W: nothing

  // False: too many.
  bool build(const int32_t* place, int64_t block_count, int64_t L) {
    int32_t used = 0;
    for (int64_t k = block_count - 1; k >= 0; --k) {  // in the order of the way back
      uint8_t rank[2 * W] = {}, rank_of[W], most[2] = {0, 0};
      const int count = static_cast<int>(L - k * W < W ? L - k * W : W);
      for (int i = 0; i < count; ++i) {
        const int32_t c = place[k * W + i];
        rank_of[i] = rank[c]++;
        uint8_t& most_here = most[c >= W];
        if (rank[c] > most_here) most_here = rank[c];
      }
      const Block block{used, most[0], most[1]};
      blocks[k] = block;
      if (used + block.lower + block.upper > kMost * block_count) return false;
      int32_t* const out = lanes + int64_t{used} * W;
      for (int i = 0; i < (block.lower + block.upper) * W; ++i) out[i] = W;
      for (int i = 0; i < count; ++i) {
        const int32_t c = place[k * W + i];
        out[(rank_of[i] + (c >= W ? block.lower : 0)) * W + c % W] = i;
      }
      used += block.lower + block.upper;
    }
    return true;
  }

  // lower and upper places' sums += the occupations of block k
  CTC_INLINE void add(int64_t k, V occupied, V& lower, V& upper) const {
    const Block block = blocks[k];
    const int32_t* p = lanes + int64_t{block.first} * W;
    for (int32_t i = 0; i < block.lower; ++i, p += W) lower = V::add(lower, V::pick(occupied, p));
    for (int32_t i = 0; i < block.upper; ++i, p += W) upper = V::add(upper, V::pick(occupied, p));
  }
};

}  // namespace
}  // namespace ctcspeech
