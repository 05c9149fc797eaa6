// Between rows of a table by frame, columns by table place, and rows by label position: transposes of
// W x W tiles of floats, or permutations. V is one of the float vectors of vec_*.h.
#pragma once

#include <cstdint>
#include <cstring>

#include "base/compiler.h"

namespace ctcspeech {
namespace {

// Spreads table rows over label positions: spread[f][block] lane i = row f at place[block * W + i].
template <class V>
struct Spread {
  // By transposing: lanes are frames in between.
  static void to_labels(const float* rows, int64_t width, const int32_t* place, int64_t first_block,
                        int64_t last_block, int64_t blocks, float* columns, float* spread) {
    constexpr int W = V::W;
    V r[W];
    if constexpr (V::kTableSize > 0)
      if (width <= V::kTableSize) {
        for (int f = 0; f < W; ++f)
          V::look_up(rows + f * width, width, place + first_block * W,
                     last_block - first_block + 1, spread + (f * blocks + first_block) * W);
        return;
      }
    for (int64_t c = 0; c < width; c += W) {
      for (int f = 0; f < W; ++f) r[f] = V::load(rows + f * width + c);
      V::transpose(r);
      for (int i = 0; i < W; ++i) r[i].store(columns + (c + i) * W);
    }
    for (int64_t k = first_block; k <= last_block; ++k) {
      for (int i = 0; i < W; ++i) r[i] = V::load(columns + int64_t{place[k * W + i]} * W);
      V::transpose(r);
      for (int f = 0; f < W; ++f) r[f].store(spread + (f * blocks + k) * W);
    }
  }

  // The way back: columns[place] lane f += spread[f][position], `columns` zero before.
  static void to_places(const float* spread, const int32_t* place, int64_t first_block,
                        int64_t last_block, int64_t blocks, float* columns) {
    constexpr int W = V::W;
    V r[W];
    for (int64_t k = first_block; k <= last_block; ++k) {
      for (int f = 0; f < W; ++f) r[f] = V::load(spread + (f * blocks + k) * W);
      V::transpose(r);
      for (int i = 0; i < W; ++i) {
        float* column = columns + int64_t{place[k * W + i]} * W;
        V::add(r[i], V::load(column)).store(column);
      }
    }
  }

  // rows[f][place] = columns[place] lane f
  static void to_rows(const float* columns, int64_t width, float* rows) {
    constexpr int W = V::W;
    V r[W];
    for (int64_t c = 0; c < width; c += W) {
      for (int i = 0; i < W; ++i) r[i] = V::load(columns + (c + i) * W);
      V::transpose(r);
      for (int f = 0; f < W; ++f) r[f].store(rows + f * width + c);
    }
  }
};

// Lane f is op over the lanes of r[f], f < W. r is changed.
template <class V, class Op>
inline V fold_rows(V* r, Op op) {
  if constexpr (V::kSmallTable > 0) {
    return V::fold(r, op);
  } else {
    V::transpose(r);
    for (int step = V::W / 2; step > 0; step /= 2)
      for (int i = 0; i < step; ++i) r[i] = op(r[i], r[i + step]);
    return r[0];
  }
}

// Lane f is the sum, or the largest, of the lanes of rows[f], f < W.
template <class V>
inline V sums_of_rows(const float* rows) {
  V r[V::W];
  for (int f = 0; f < V::W; ++f) r[f] = V::load(rows + f * V::W);
  return fold_rows(r, [](V a, V b) { return V::add(a, b); });
}
template <class V>
inline V largest_of_rows(const float* rows) {
  V r[V::W];
  for (int f = 0; f < V::W; ++f) r[f] = V::load(rows + f * V::W);
  return fold_rows(r, [](V a, V b) { return V::max(a, b); });
}

// gamma by label position to sums by place, where a table row is at most two vectors: for each block of
// labels a few permutations, each of which brings one occurrence of up to W places to the place's lane.
// V is a vector with a small table (base/vec_portable.h).
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
