// The recursion of few labels: all states of a block of frames in registers. The same steps as in
// ctc/cpu/alpha_beta.h, which takes this way where it pays.
#pragma once

#include <cstdint>

#include "base/compiler.h"
#include "ctc/cpu/by_label.h"
#include "ctc/cpu/label_table.h"
#include "ctc/cpu/numbers.h"
#include "ctc/equations.h"

namespace ctcspeech {
namespace {

// Blocks of labels that registers can hold; 0: the vectors have no table in registers.
template <class V>
constexpr int kMostBlocks = V::kSmallTable > 0 ? 6 : 0;

// The recursion's arrays, for a block of frames.
template <class V>
struct FrameBlock {
  using Real = typename V::Real;
  int64_t blocks, row;    // of labels; reals in a row
  const char* masks;
  Real *passing, *beta, *occupied, *on_blank, *sums;
  Picks<V> picks;
  const Real* emissions;  // a row of the label table's width each frame

  void store_picked(int f, int64_t width, V lower, V upper) const {
    lower.store(sums + f * width);
    if (width > V::W) upper.store(sums + f * width + V::W);
  }
};

template <class N, int kFrames>
class InRegisters {
  using V = typename N::Vector;
  using Real = typename N::Real;
  static constexpr int W = N::W;
  static constexpr int64_t kUnit = N::kParts * W;  // reals of one number vector in memory
  static constexpr int kMostBlocks = ctcspeech::kMostBlocks<V>;

 public:
  InRegisters(const LabelTable& table, const FrameBlock<V>& arrays) : table(table), m(arrays) {}

  // alpha of the frames of a block: row `before` in, the last row out into m.passing, and every row into
  // rows_out unless null. False: out of range.
  template <bool kFloor>
  bool forward(int64_t first, int count, const Real* before, Real* rows_out,
                      double& exponent) {
    if constexpr (kMostBlocks > 0) switch (m.blocks) {
        case 1: return forward_of<1, kFloor>(first, count, before, rows_out, exponent);
        case 2: return forward_of<2, kFloor>(first, count, before, rows_out, exponent);
        case 3: return forward_of<3, kFloor>(first, count, before, rows_out, exponent);
        case 4: return forward_of<4, kFloor>(first, count, before, rows_out, exponent);
        case 5: return forward_of<5, kFloor>(first, count, before, rows_out, exponent);
        case 6: return forward_of<6, kFloor>(first, count, before, rows_out, exponent);
      }
    return false;
  }

  // Occupations of the frames of a block, not yet normalised, and beta of the frame before it in place of
  // beta of its last. With kPick summed by place.
  template <bool kPick>
  bool backward(int64_t first, int count, const Real* alpha, double& exponent) {
    if constexpr (kMostBlocks > 0) switch (m.blocks) {
        case 1: return backward_of<1, kPick>(first, count, alpha, exponent);
        case 2: return backward_of<2, kPick>(first, count, alpha, exponent);
        case 3: return backward_of<3, kPick>(first, count, alpha, exponent);
        case 4: return backward_of<4, kPick>(first, count, alpha, exponent);
        case 5: return backward_of<5, kPick>(first, count, alpha, exponent);
        case 6: return backward_of<6, kPick>(first, count, alpha, exponent);
      }
    return false;
  }

 private:
  // The states of kBlocks blocks, in registers as long as every loop over them is unrolled.
  template <int kBlocks>
  struct States {
    N b[kBlocks], a[kBlocks];

    CTC_INLINE void load(const Real* row) {
      CTC_UNROLL
      for (int k = 0; k < kBlocks; ++k) {
        b[k] = N::load(row + 2 * k * kUnit);
        a[k] = N::load(row + (2 * k + 1) * kUnit);
      }
    }
    CTC_INLINE void store(Real* row) const {
      CTC_UNROLL
      for (int k = 0; k < kBlocks; ++k) {
        b[k].store(row + 2 * k * kUnit);
        a[k].store(row + (2 * k + 1) * kUnit);
      }
    }
    CTC_INLINE bool rescale(const Range& range, N floor, double& exponent) {
      V largest = V::max(b[0].v, a[0].v);
      CTC_UNROLL
      for (int k = 1; k < kBlocks; ++k) largest = V::max(largest, V::max(b[k].v, a[k].v));
      int shift;
      if (!needed_shift(largest.largest(), range, shift)) return false;
      if (shift == 0) return true;
      exponent -= shift;
      const N first = N::of(power_of_two(shift / 2)), second = N::of(power_of_two(shift - shift / 2));
      CTC_UNROLL
      for (int k = 0; k < kBlocks; ++k) {
        b[k] = N::fma(N::mul(b[k], first), second, floor);
        a[k] = N::fma(N::mul(a[k], first), second, floor);
      }
      return true;
    }
  };

  // enter(t) of the frames of a block, so that no call stands in their loop.
  void enter_weights(int64_t first, int count, Real* weights) const {
    for (int f = 0; f < count; ++f) weights[f] = static_cast<Real>(table.enter(first + f));
  }

  // As forward, for so many blocks.
  template <int kBlocks, bool kFloor>
  CTC_APART bool forward_of(int64_t first, int count, const Real* before, Real* rows_out,
                         double& exponent) {
    States<kBlocks> s;
    s.load(before);
    typename V::Mask mask[kBlocks];
    CTC_UNROLL
    for (int k = 0; k < kBlocks; ++k) mask[k] = V::load_mask(m.masks + k * V::kMaskBytes);
    alignas(64) Real weights[kFrames];
    enter_weights(first, count, weights);
    const int32_t* const place = table.place;
    const Real* emission_row = m.emissions;
    const int64_t width = table.width, blank_place = table.blank, row_size = m.row;
    const N lambda = N::of(table.tilt), floor = kFloor ? floor_value<N>() : N::zero();
    int till_look = static_cast<int>(kRescaleEvery - first % kRescaleEvery);
    for (int f = 0; f < count; ++f, emission_row += width) {
      const typename V::SmallTable emissions(emission_row);
      const N blank = N::broadcast(emission_row + blank_place, 0), enter{V::set(weights[f])};
      N carry = N::zero();
      CTC_UNROLL
      for (int k = 0; k < kBlocks; ++k) {
        const N before_it = N::shift_up(s.a[k], carry), p{emissions.at(place + k * W)};
        const N x = N::fma(lambda, before_it, s.b[k]);
        carry = s.a[k];
        if constexpr (kBlocks <= 3) {  // so little to do that a frame waits for the last: a short chain
          const N y{V::fma_where(mask[k], lambda.v, before_it.v, s.b[k].v)};
          s.a[k] = N::fma(N::mul(p, enter), y, N::fma(p, s.a[k], floor));
        } else {
          const N y = N::select(mask[k], x, s.b[k]);
          s.a[k] = N::fma(p, N::fma(enter, y, s.a[k]), floor);
        }
        s.b[k] = N::fma(blank, x, floor);
      }
      if (--till_look == 0) {
        till_look = kRescaleEvery;
        if (!s.rescale(Scaling<Real>::alpha, floor, exponent)) return false;
      }
      if (rows_out) s.store(rows_out + f * row_size);
    }
    s.store(m.passing);
    return true;
  }

  // As backward, for so many blocks.
  template <int kBlocks, bool kPick>
  CTC_APART bool backward_of(int64_t first, int count, const Real* alpha, double& exponent) {
    States<kBlocks> s;
    s.load(m.beta);
    typename V::Mask mask[kBlocks];
    CTC_UNROLL
    for (int k = 0; k < kBlocks; ++k) mask[k] = V::load_mask(m.masks + k * V::kMaskBytes);
    alignas(64) Real weights[kFrames];
    enter_weights(first, count, weights);
    const int32_t* const place = table.place;
    const int64_t width = table.width, blank_place = table.blank, row_size = m.row;
    const Real* const emission_rows = m.emissions;
    Real* const all_occupied = m.occupied;
    Real* const all_on_blank = m.on_blank;
    const Picks<V> picks = m.picks;
    const N lambda = N::of(table.tilt);
    for (int f = count - 1; f >= 0; --f) {
      const Real* emission_row = emission_rows + f * width;
      const typename V::SmallTable emissions(emission_row);
      const N blank = N::broadcast(emission_row + blank_place, 0), enter{V::set(weights[f])};
      const Real* row = alpha + f * row_size;
      Real* occupied = all_occupied + f * kBlocks * W;
      V on_blank = V::set(0), lower = V::set(0), upper = V::set(0);
      N after = N::zero();
      CTC_UNROLL
      for (int k = kBlocks - 1; k >= 0; --k) {
        on_blank = V::fma(N::load(row + 2 * k * kUnit).v, s.b[k].v, on_blank);
        const V on_label = V::mul(N::load(row + (2 * k + 1) * kUnit).v, s.a[k].v);
        if constexpr (kPick)
          picks.add(k, on_label, lower, upper);
        else
          on_label.store(occupied + k * W);
        const N u_b = N::mul(blank, s.b[k]);
        const N u_a = N::mul(N{emissions.at(place + k * W)}, s.a[k]);
        s.b[k] = N::fma(enter, u_a, u_b);
        const N w = N::select(mask[k], s.b[k], u_b);
        s.a[k] = N::fma(lambda, N::shift_down(w, after), u_a);
        after = w;
      }
      on_blank.store(all_on_blank + f * W);
      if constexpr (kPick) m.store_picked(f, width, lower, upper);
      if ((first + f) % kRescaleEvery == 0 && !s.rescale(Scaling<Real>::beta, N::zero(), exponent))
        return false;
    }
    s.store(m.beta);
    return true;
  }

  const LabelTable& table;
  const FrameBlock<V>& m;
};

}  // namespace
}  // namespace ctcspeech
