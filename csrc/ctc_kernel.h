// The CTC recursion on vectors: alpha forwards, beta and the occupation gamma backwards, one utterance.
// The formulas are in ctc_math.h. Compiled once for each instruction set and each kind of number.
//
// Labels stand in blocks of W lanes; a row holds, block by block, [W of B][W of A]. The last block is
// padded with labels of emission zero. Frames are taken kFrames at a time: a Source gives the emissions
// of the utterance's own labels for such a block of frames, a Sink takes gamma, summed over equal labels.
#pragma once

#include <cstdint>
#include <cstring>

#include "ctc_math.h"
#include "ctc_numbers.h"
#include "ctc_spread.h"
#include "ctc_utterance.h"

namespace ctcspeech {
namespace {

// The utterance's labels as places in a table of the different ones among them.
struct LabelTable {
  int64_t T, L;
  int64_t width;         // of a table row, padded to whole vectors
  int32_t blank;         // place of the blank
  int32_t nothing;       // place whose emission is always 0
  int32_t wildcard;      // place of the wildcard: nothing + 1
  const int32_t* place;  // of label j; `nothing` beyond L, up to a whole number of vectors
  const bool* differs;   // m_j
  double tilt;
  double delay_penalty;

  double enter(int64_t t) const {  // lambda d_t
    if (delay_penalty == 0) return tilt;
    const double middle = static_cast<double>(T - 1) / 2;
    return tilt * std::exp(delay_penalty * (middle - static_cast<double>(t)));
  }
};

template <class Real>
struct Source {
  // Emissions of frames [first, first + count): kParts rows of table.width each frame. Null: a value is
  // below what this kind of number can hold.
  virtual const Real* rows(int64_t first, int count) = 0;
};

template <class Real>
struct Sink {
  // gamma of the same frames, `width` places each, the frame's sum being 1.
  virtual void take(int64_t first, int count, const Real* gamma) = 0;
  virtual void prepare(int64_t first, int count) = 0;  // they will come soon
};

enum class Verdict { kGood, kOutOfRange };

template <class N, int kFrames>
class Recursion {
  using V = typename N::Vector;
  using Real = typename N::Real;
  static constexpr int W = N::W;
  static constexpr int64_t kUnit = N::kParts * W;  // reals of one number vector in memory
  static constexpr int kNarrow = V::kSmallTable > 0 ? 6 : 0;  // blocks that registers can hold
  static constexpr bool kTransposes = sizeof(Real) == 4;
  // alpha is kept whole up to kWhole bytes, beyond that in segments of kSegment bytes from checkpoints
  static constexpr int64_t kWhole = int64_t{768} << 10, kSegment = int64_t{384} << 10;

 public:
  using Number = N;

  struct Layout {
    int64_t blocks, row, segment, segments;  // row in reals, segment in frames

    Layout(int64_t T, int64_t L, bool with_gradient) {
      blocks = L / W + 1;
      row = blocks * 2 * kUnit;
      const int64_t bytes = row * static_cast<int64_t>(sizeof(Real));
      segment = T;
      if (!with_gradient) {
        segment = 0;
      } else if (T * bytes > kWhole) {
        segment = kSegment / bytes;
        const auto root = static_cast<int64_t>(std::sqrt(static_cast<double>(T)));
        if (segment < root) segment = root;
      }
      segment = (segment + kFrames - 1) / kFrames * kFrames;
      segments = segment ? (T + segment - 1) / segment : 0;
    }
  };

  struct Memory {
    Real *alpha, *checkpoints, *passing, *start, *beta, *spread, *occupied, *on_blank, *columns,
        *sums;
    char* masks;

    Memory(Arena& arena, const Layout& layout, int64_t width, bool with_gradient) {
      alpha = arena.take<Real>(layout.segment * layout.row);
      checkpoints = arena.take<Real>(with_gradient ? (layout.segments - 1) * layout.row : 0);
      passing = arena.take<Real>(2 * layout.row);
      start = arena.take<Real>(2 * kUnit);
      spread = arena.take<Real>(kFrames * layout.blocks * kUnit);
      columns = arena.take<Real>(width * kFrames);
      masks = arena.take<char>(layout.blocks * V::kMaskBytes);
      beta = arena.take<Real>(with_gradient ? layout.row : 0);
      occupied = arena.take<Real>(with_gradient ? kFrames * layout.blocks * W : 0);
      on_blank = arena.take<Real>(with_gradient ? kFrames * W : 0);
      sums = arena.take<Real>(with_gradient ? width * kFrames : 0);
    }
  };

  static size_t workspace(int64_t T, int64_t L, int64_t width, bool with_gradient) {
    Arena arena(nullptr);
    Memory(arena, Layout(T, L, with_gradient), width, with_gradient);
    return arena.used();
  }

  Recursion(const LabelTable& table, Source<Real>& source, Sink<Real>* sink, Arena& arena)
      : table(table),
        source(source),
        sink(sink),
        layout(table.T, table.L, sink != nullptr),
        m(arena, layout, table.width, sink != nullptr),
        from_table(table.width <= V::kSmallTable),
        narrow(from_table && layout.blocks <= kNarrow && layout.segments <= 1 &&
               table.T >= 3 * table.L) {
    for (int64_t k = 0; k < layout.blocks; ++k)
      V::store_mask(m.masks + k * V::kMaskBytes, table.differs + k * W);
  }

  // log_z = ln sum over alignments of the product of the emissions given.
  Verdict run(double& log_z) {
    double log_upper, log_lower;
    if (!forward<true>(log_upper)) return Verdict::kOutOfRange;
    if (sink) {
      if (!backward(log_lower)) return Verdict::kOutOfRange;
    } else if (N::kExtended) {
      log_lower = log_upper;
    } else if (!forward<false>(log_lower)) {
      return Verdict::kOutOfRange;
    }
    if (!certified(log_upper, log_lower, table.T)) return Verdict::kOutOfRange;
    log_z = log_upper - 2 * static_cast<double>(table.L) * std::log(table.tilt);
    return Verdict::kGood;
  }

 private:
  // Blocks that count at frame t. The lower end is that of the frame before, because the way back
  // computes beta of frame t - 1 in the sweep over frame t.
  int64_t low_block(int64_t t) const { return t ? lowest_label(t - 1, table.T, table.L) / W : 0; }
  int64_t high_block(int64_t t) const { return highest_label(t, table.L) / W; }

  Real* unit(Real* row, int64_t block, int half) const { return row + (2 * block + half) * kUnit; }
  const Real* unit(const Real* row, int64_t block, int half) const {
    return row + (2 * block + half) * kUnit;
  }
  void clear(Real* row, int64_t block) const {
    N::zero().store(unit(row, block, 0));
    N::zero().store(unit(row, block, 1));
  }
  void put_one(Real* row, int64_t label, int half, double value) const {
    Real* lane = unit(row, label / W, half) + label % W;
    *lane = static_cast<Real>(value);
    if constexpr (N::kExtended) {
      int exponent;
      *lane = 2 * std::frexp(value, &exponent);
      lane[W] = exponent - 1;
    }
  }

  // ---- emissions --------------------------------------------------------------------------------

  bool spread_emissions(int64_t first, int count) {
    rows = source.rows(first, count);
    if (!rows) return false;
    if (from_table) return true;
    const int64_t low = low_block(first), high = high_block(first + count - 1);
    if constexpr (kTransposes) {
      Spread<V>::to_labels(rows, table.width, table.place, low, high, layout.blocks, m.columns,
                           m.spread);
    } else {
      for (int f = 0; f < count; ++f)
        for (int part = 0; part < N::kParts; ++part) {
          const Real* row = rows + (f * N::kParts + part) * table.width;
          Real* out = m.spread + f * layout.blocks * kUnit + part * W;
          for (int64_t k = low; k <= high; ++k)
            for (int i = 0; i < W; ++i) out[k * kUnit + i] = row[table.place[k * W + i]];
        }
    }
    return true;
  }

  // Emissions of frame f by block of labels: read from where they were spread, or, where the table is so
  // small that it stands in registers, looked up on the spot.
  struct FromSpread {
    const Real* p;
    FromSpread(const Recursion& r, int f) : p(r.m.spread + f * r.layout.blocks * kUnit) {}
    N at(int64_t k) const { return N::load(p + k * kUnit); }
  };
  struct FromTable {
    typename V::SmallTable entries;
    const int32_t* place;
    FromTable(const Recursion& r, int f)
        : entries(r.rows + f * r.table.width), place(r.table.place) {}
    N at(int64_t k) const { return {entries.at(place + k * W)}; }
  };
  N blank_emission(int f) const {
    return N::broadcast(rows + f * N::kParts * table.width + table.blank, table.width);
  }

  // ---- forwards ---------------------------------------------------------------------------------

  // Row t from row t - 1. With kFloor an upper bound. kLook: returns the largest value.
  template <bool kFloor, bool kLook>
  Real step(int64_t t, const Real* before, Real* row, int f) {
    if constexpr (V::kSmallTable > 0)
      if (from_table) return step_with<kFloor, kLook>(t, before, row, f, FromTable(*this, f));
    return step_with<kFloor, kLook>(t, before, row, f, FromSpread(*this, f));
  }

  template <bool kFloor, bool kLook, class Emissions>
  Real step_with(int64_t t, const Real* before, Real* row, int f, const Emissions emissions) {
    const int64_t low = low_block(t), high = high_block(t);
    const N blank = blank_emission(f), lambda = N::of(table.tilt), enter = N::of(table.enter(t));
    const N floor = floor_value();
    const char* const masks = m.masks;  // locals: vector stores may alias every member
    V largest = V::set(0);
    N carry = N::zero();
    if (low > 0 && t > 0 && low_block(t - 1) < low) carry = N::load(unit(before, low - 1, 1));
    for (int64_t k = low; k <= high; ++k) {
      const N b = N::load(unit(before, k, 0)), a = N::load(unit(before, k, 1));
      const N x = N::fma(lambda, N::shift_up(a, carry), b);
      const N y = N::select(V::load_mask(masks + k * V::kMaskBytes), x, b);
      const N p = emissions.at(k);
      N new_b, new_a;
      if constexpr (kFloor && !N::kExtended) {
        new_b = N::fma(blank, x, floor);
        new_a = N::fma(p, N::fma(enter, y, a), floor);
      } else {
        new_b = N::mul(blank, x);
        new_a = N::mul(p, N::fma(enter, y, a));
      }
      new_b.store(unit(row, k, 0));
      new_a.store(unit(row, k, 1));
      if constexpr (kLook && !N::kExtended) largest = V::max(largest, V::max(new_b.v, new_a.v));
      carry = a;
    }
    return kLook && !N::kExtended ? largest.largest() : Real{1};
  }

  N floor_value() const {
    if constexpr (N::kExtended)
      return N::zero();
    else
      return N::of(Scaling<Real>::floor);
  }

  // The power of two that brings `largest` back to 2^range.high; 0 where it is within the range. False:
  // nothing left, or too much.
  static bool needed_shift(Real largest, const Range& range, int& shift) {
    shift = 0;
    const auto bottom = static_cast<Real>(std::ldexp(1.0, range.low));
    const auto top = static_cast<Real>(std::ldexp(1.0, range.top));
    if (largest > bottom && largest < top) return true;
    if (!(largest > 4 * Scaling<Real>::floor) || !(largest <= std::numeric_limits<Real>::max()))
      return false;
    shift = range.high - std::ilogb(static_cast<double>(largest));
    return true;
  }

  // Brings a row whose largest value is `largest` back into the range.
  template <bool kFloor>
  bool rescale(Real* row, int64_t low, int64_t high, Real largest, const Range& range,
               double& exponent) {
    if constexpr (!N::kExtended) {
      int shift;
      if (!needed_shift(largest, range, shift)) return false;
      if (shift == 0) return true;
      exponent -= shift;
      const N first = N::of(std::ldexp(1.0, shift / 2));
      const N second = N::of(std::ldexp(1.0, shift - shift / 2));
      const N floor = kFloor ? floor_value() : N::zero();
      for (int64_t i = low * 2 * kUnit; i < (high + 1) * 2 * kUnit; i += kUnit)
        N::fma(N::mul(N::load(row + i), first), second, floor).store(row + i);
    }
    return true;
  }

  template <bool kFloor>
  bool advance(int64_t t, Real* before, Real* row, int f, double& exponent) {
    const int64_t high = high_block(t);
    if (t > 0 && high > high_block(t - 1)) clear(before, high);
    if (t % kRescaleEvery != kRescaleEvery - 1) {
      step<kFloor, false>(t, before, row, f);
      return true;
    }
    const Real largest = step<kFloor, true>(t, before, row, f);
    if constexpr (N::kExtended) return true;
    return rescale<kFloor>(row, low_block(t), high, largest, kAlphaRange, exponent);
  }

  // The row before the first frame: all mass in B[0].
  Real* start_row(double& exponent) {
    clear(m.start, 0);
    const int shift = N::kExtended ? 0 : kAlphaRange.high;
    put_one(m.start, 0, 0, std::ldexp(1.0, shift));
    exponent = -shift;
    return m.start;
  }

  // Where row t stands in the first pass: the last segment is kept, rows before it pass by.
  Real* row_of(int64_t t) {
    const int64_t kept = layout.segments ? (layout.segments - 1) * layout.segment : table.T;
    return t >= kept ? m.alpha + (t - kept) * layout.row : m.passing + (t & 1) * layout.row;
  }

  template <bool kFloor>
  bool forward(double& log_z) {
    double exponent;
    Real* before = start_row(exponent);
    for (int64_t first = 0; first < table.T; first += kFrames) {
      const int count = static_cast<int>(first + kFrames < table.T ? kFrames : table.T - first);
      if (!spread_emissions(first, count)) return false;
      if (first > 0 && layout.segments > 1 && first % layout.segment == 0)
        std::memcpy(checkpoint(first), before, layout.row * sizeof(Real));
      if (narrow) {
        Real* rows_out = layout.segments ? row_of(first) : nullptr;
        if (!narrow_forward<kFloor>(first, count, before, rows_out, exponent)) return false;
        before = m.passing;
        continue;
      }
      for (int f = 0; f < count; ++f) {
        const int64_t t = first + f;
        Real* row = row_of(t);
        if (!advance<kFloor>(t, before, row, f, exponent)) return false;
        before = row;
      }
    }
    return total(before, exponent, log_z);
  }

  // The row before the first of a segment.
  Real* checkpoint(int64_t first) const {
    return m.checkpoints + (first / layout.segment - 1) * layout.row;
  }

  bool total(const Real* last, double exponent, double& log_z) {
    const int64_t L = table.L;
    z = scalar_at<N>(unit(last, L / W, 0), L % W);
    if (L > 0) {
      Scalar a = scalar_at<N>(unit(last, (L - 1) / W, 1), (L - 1) % W);
      a.m *= table.tilt;
      z = Scalar::add(z, a);
    }
    return log_of(z, exponent, log_z);
  }

  static bool log_of(Scalar value, double exponent, double& log_value) {
    double least = 0;  // below which the floor is felt
    if constexpr (!N::kExtended) least = 1e6 * static_cast<double>(Scaling<Real>::floor);
    if (!(value.m > least) || !(value.m <= std::numeric_limits<double>::max())) return false;
    log_value = value.log() + exponent * kLn2;
    return true;
  }

  // ---- backwards --------------------------------------------------------------------------------

  bool backward(double& log_z) {
    for (int64_t k = 0; k < layout.blocks; ++k) clear(m.beta, k);
    put_one(m.beta, table.L, 0, 1);
    if (table.L > 0) put_one(m.beta, table.L - 1, 1, table.tilt);
    double exponent = 0;
    for (int64_t segment = layout.segments - 1; segment >= 0; --segment) {
      const int64_t first = segment * layout.segment;
      const int64_t end = first + layout.segment < table.T ? first + layout.segment : table.T;
      if (segment < layout.segments - 1 && !compute_again(first, end)) return false;
      for (int64_t block = (end - 1) / kFrames * kFrames; block >= first; block -= kFrames) {
        const int count = static_cast<int>(block + kFrames < end ? kFrames : end - block);
        if (!back_block(block, count, m.alpha + (block - first) * layout.row, exponent))
          return false;
      }
    }
    // One step before the first frame all mass is in B[0] again.
    return log_of(scalar_at<N>(unit(m.beta, 0, 0), 0), exponent, log_z);
  }

  // alpha of frames [first, end) from the checkpoint before them
  bool compute_again(int64_t first, int64_t end) {
    double exponent;
    Real* before = first ? checkpoint(first) : start_row(exponent);
    for (int64_t block = first; block < end; block += kFrames) {
      if (!spread_emissions(block, kFrames)) return false;
      for (int f = 0; f < kFrames; ++f) {
        Real* row = m.alpha + (block + f - first) * layout.row;
        if (!advance<true>(block + f, before, row, f, exponent)) return false;
        before = row;
      }
    }
    return true;
  }

  bool back_block(int64_t first, int count, const Real* alpha, double& exponent) {
    sink->prepare(first, count);
    if (!spread_emissions(first, count)) return false;
    const int64_t low = narrow ? 0 : low_block(first);
    const int64_t high = narrow ? layout.blocks - 1 : high_block(first + count - 1);
    for (int f = count; f < kFrames; ++f) clear_occupied(f, low, high);
    if (narrow && !narrow_backward(first, count, alpha, exponent)) return false;
    for (int f = count - 1; f >= 0 && !narrow; --f) {
      const int64_t t = first + f;
      const Real* row = alpha + f * layout.row;
      clear_occupied(f, low, low_block(t) - 1);
      clear_occupied(f, high_block(t) + 1, high);
      if (t % kRescaleEvery == 0) {
        const Real largest = back_step<true>(t, row, f);
        if (!rescale<false>(m.beta, low_block(t), high_block(t), largest, kBetaRange, exponent))
          return false;
      } else {
        back_step<false>(t, row, f);
      }
    }
    if (!gather_occupation(low, high, count)) return false;
    sink->take(first, count, m.sums);
    return true;
  }

  // gamma of frame t, not yet normalised, and beta of frame t - 1 in place of beta of frame t.
  template <bool kLook>
  Real back_step(int64_t t, const Real* alpha, int f) {
    if constexpr (V::kSmallTable > 0)
      if (from_table) return back_step_with<kLook>(t, alpha, f, FromTable(*this, f));
    return back_step_with<kLook>(t, alpha, f, FromSpread(*this, f));
  }

  template <bool kLook, class Emissions>
  Real back_step_with(int64_t t, const Real* alpha, int f, const Emissions emissions) {
    const int64_t low = low_block(t), high = high_block(t);
    const N blank = blank_emission(f), lambda = N::of(table.tilt), enter = N::of(table.enter(t));
    const N inverse_z = inverse_of_z();
    const char* const masks = m.masks;  // locals: vector stores may alias every member
    Real* const occupied = m.occupied + f * layout.blocks * W;
    Real* const beta = m.beta;
    V on_blank = V::set(0), largest = V::set(0);
    N after = N::zero();
    for (int64_t k = high; k >= low; --k) {
      const N b = N::load(unit(beta, k, 0)), a = N::load(unit(beta, k, 1));
      on_blank = N::add_occupation(N::load(unit(alpha, k, 0)), b, inverse_z, on_blank);
      N::add_occupation(N::load(unit(alpha, k, 1)), a, inverse_z, V::set(0)).store(occupied + k * W);
      const N u_b = N::mul(blank, b), u_a = N::mul(emissions.at(k), a);
      const N new_b = N::fma(enter, u_a, u_b);
      const N w = N::select(V::load_mask(masks + k * V::kMaskBytes), new_b, u_b);
      const N new_a = N::fma(lambda, N::shift_down(w, after), u_a);
      new_b.store(unit(beta, k, 0));
      new_a.store(unit(beta, k, 1));
      if constexpr (kLook && !N::kExtended) largest = V::max(largest, V::max(new_b.v, new_a.v));
      after = w;
    }
    on_blank.store(m.on_blank + f * W);
    return kLook && !N::kExtended ? largest.largest() : Real{1};
  }

  N inverse_of_z() const {
    if constexpr (N::kExtended)
      return {V::set(1 / z.m), V::set(-z.e)};
    else
      return N::zero();  // not looked at
  }

  // ---- few blocks: a block of frames with all states in registers ---------------------------------

  template <bool kFloor>
  bool narrow_forward(int64_t first, int count, const Real* before, Real* rows_out,
                      double& exponent) {
    if constexpr (kNarrow > 0) switch (layout.blocks) {
        case 1: return narrow_forward_of<1, kFloor>(first, count, before, rows_out, exponent);
        case 2: return narrow_forward_of<2, kFloor>(first, count, before, rows_out, exponent);
        case 3: return narrow_forward_of<3, kFloor>(first, count, before, rows_out, exponent);
        case 4: return narrow_forward_of<4, kFloor>(first, count, before, rows_out, exponent);
        case 5: return narrow_forward_of<5, kFloor>(first, count, before, rows_out, exponent);
        case 6: return narrow_forward_of<6, kFloor>(first, count, before, rows_out, exponent);
      }
    return false;
  }

  bool narrow_backward(int64_t first, int count, const Real* alpha, double& exponent) {
    if constexpr (kNarrow > 0) switch (layout.blocks) {
        case 1: return narrow_backward_of<1>(first, count, alpha, exponent);
        case 2: return narrow_backward_of<2>(first, count, alpha, exponent);
        case 3: return narrow_backward_of<3>(first, count, alpha, exponent);
        case 4: return narrow_backward_of<4>(first, count, alpha, exponent);
        case 5: return narrow_backward_of<5>(first, count, alpha, exponent);
        case 6: return narrow_backward_of<6>(first, count, alpha, exponent);
      }
    return false;
  }

  // As step, for the frames of a block; row `before` in, the last row out into m.passing, and every row
  // into rows_out unless null.
  template <int kBlocks, bool kFloor>
  bool narrow_forward_of(int64_t first, int count, const Real* before, Real* rows_out,
                         double& exponent) {
    N b[kBlocks], a[kBlocks];
    typename V::Mask mask[kBlocks];
    for (int k = 0; k < kBlocks; ++k) {
      const bool there = k == 0 || before != m.start;
      b[k] = there ? N::load(unit(before, k, 0)) : N::zero();
      a[k] = there ? N::load(unit(before, k, 1)) : N::zero();
      mask[k] = V::load_mask(m.masks + k * V::kMaskBytes);
    }
    const N lambda = N::of(table.tilt), floor = kFloor ? floor_value() : N::zero();
    for (int f = 0; f < count; ++f) {
      const FromTable emissions(*this, f);
      const N blank = blank_emission(f), enter = N::of(table.enter(first + f));
      N carry = N::zero();
      for (int k = 0; k < kBlocks; ++k) {
        const N x = N::fma(lambda, N::shift_up(a[k], carry), b[k]);
        const N y = N::select(mask[k], x, b[k]);
        carry = a[k];
        b[k] = N::fma(blank, x, floor);
        a[k] = N::fma(emissions.at(k), N::fma(enter, y, a[k]), floor);
      }
      if ((first + f) % kRescaleEvery == kRescaleEvery - 1 &&
          !narrow_rescale<kBlocks>(b, a, kAlphaRange, floor, exponent))
        return false;
      if (rows_out) narrow_store<kBlocks>(b, a, rows_out + f * layout.row);
    }
    narrow_store<kBlocks>(b, a, m.passing);
    return true;
  }

  // As back_step, for the frames of a block.
  template <int kBlocks>
  bool narrow_backward_of(int64_t first, int count, const Real* alpha, double& exponent) {
    N b[kBlocks], a[kBlocks];
    typename V::Mask mask[kBlocks];
    for (int k = 0; k < kBlocks; ++k) {
      b[k] = N::load(unit(m.beta, k, 0));
      a[k] = N::load(unit(m.beta, k, 1));
      mask[k] = V::load_mask(m.masks + k * V::kMaskBytes);
    }
    const N lambda = N::of(table.tilt);
    for (int f = count - 1; f >= 0; --f) {
      const FromTable emissions(*this, f);
      const N blank = blank_emission(f), enter = N::of(table.enter(first + f));
      const Real* row = alpha + f * layout.row;
      Real* occupied = m.occupied + f * layout.blocks * W;
      V on_blank = V::set(0);
      N after = N::zero();
      for (int k = kBlocks - 1; k >= 0; --k) {
        on_blank = V::fma(N::load(unit(row, k, 0)).v, b[k].v, on_blank);
        V::mul(N::load(unit(row, k, 1)).v, a[k].v).store(occupied + k * W);
        const N u_b = N::mul(blank, b[k]), u_a = N::mul(emissions.at(k), a[k]);
        b[k] = N::fma(enter, u_a, u_b);
        const N w = N::select(mask[k], b[k], u_b);
        a[k] = N::fma(lambda, N::shift_down(w, after), u_a);
        after = w;
      }
      on_blank.store(m.on_blank + f * W);
      if ((first + f) % kRescaleEvery == 0 &&
          !narrow_rescale<kBlocks>(b, a, kBetaRange, N::zero(), exponent))
        return false;
    }
    narrow_store<kBlocks>(b, a, m.beta);
    return true;
  }

  template <int kBlocks>
  void narrow_store(const N* b, const N* a, Real* row) const {
    for (int k = 0; k < kBlocks; ++k) {
      b[k].store(unit(row, k, 0));
      a[k].store(unit(row, k, 1));
    }
  }

  template <int kBlocks>
  static bool narrow_rescale(N* b, N* a, const Range& range, N floor, double& exponent) {
    V largest = V::set(0);
    for (int k = 0; k < kBlocks; ++k) largest = V::max(largest, V::max(b[k].v, a[k].v));
    int shift;
    if (!needed_shift(largest.largest(), range, shift)) return false;
    if (shift == 0) return true;
    exponent -= shift;
    const N first = N::of(std::ldexp(1.0, shift / 2)), second = N::of(std::ldexp(1.0, shift - shift / 2));
    for (int k = 0; k < kBlocks; ++k) {
      b[k] = N::fma(N::mul(b[k], first), second, floor);
      a[k] = N::fma(N::mul(a[k], first), second, floor);
    }
    return true;
  }

  void clear_occupied(int f, int64_t low, int64_t high) {
    for (int64_t k = low; k <= high; ++k)
      V::set(0).store(m.occupied + (f * layout.blocks + k) * W);
  }

  // Occupations by label position to sums by place, each frame adding up to 1. False: a frame has none,
  // or too much.
  bool gather_occupation(int64_t low, int64_t high, int count) {
    const int64_t width = table.width;
    if constexpr (kTransposes) {
      for (int f = count; f < kFrames; ++f) V::set(0).store(m.on_blank + f * W);
      std::memset(m.columns, 0, width * kFrames * sizeof(Real));
      Spread<V>::to_places(m.occupied, table.place, low, high, layout.blocks, m.columns);
      sums_of_rows<V>(m.on_blank).store(m.columns + int64_t{table.blank} * W);
      V total = V::set(0);
      for (int64_t c = 0; c < width; ++c) total = V::add(total, V::load(m.columns + c * W));
      alignas(64) Real scale[W];
      total.store(scale);
      for (int f = 0; f < W; ++f)
        if (f >= count)
          scale[f] = 0;
        else if (!invert(scale[f]))
          return false;
      Spread<V>::to_rows(m.columns, V::load(scale), width, m.sums);
      return true;
    } else {
      std::memset(m.sums, 0, width * kFrames * sizeof(Real));
      for (int f = 0; f < count; ++f) {
        Real* sums = m.sums + f * width;
        const Real* occupied = m.occupied + f * layout.blocks * W;
        for (int64_t j = low * W; j < (high + 1) * W; ++j) sums[table.place[j]] += occupied[j];
        sums[table.blank] = V::load(m.on_blank + f * W).sum();
        Real scale = 0;
        for (int64_t c = 0; c < width; ++c) scale += sums[c];
        if (!invert(scale)) return false;
        for (int64_t c = 0; c < width; ++c) sums[c] *= scale;
      }
      return true;
    }
  }

  // The sum must stand so far above the smallest normal number that products lost below that, up to one
  // a state, do not matter.
  static bool invert(Real& x) {
    if (!(x > kLeastOccupation<Real>) || !(x < kMostOccupation<Real>)) return false;
    x = 1 / x;
    return true;
  }

  static constexpr Range kAlphaRange = Scaling<Real>::alpha, kBetaRange = Scaling<Real>::beta;

  const LabelTable& table;
  Source<Real>& source;
  Sink<Real>* sink;
  const Layout layout;
  Memory m;
  const bool from_table;
  // Few blocks, and frames enough that leaving out unreachable states matters little.
  const bool narrow;
  const Real* rows = nullptr;  // of the table, for the present block of frames
  Scalar z;                    // of the forward pass
};

}  // namespace
}  // namespace ctcspeech
