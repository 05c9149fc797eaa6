// The CTC recursion on vectors: alpha forwards, beta and the occupation gamma backwards, one utterance.
// The formulas are in ctc/equations.h. Compiled once for each instruction set and each kind of number.
//
// Labels stand in blocks of W lanes; a row holds, block by block, [W of B][W of A]. The last block is
// padded with labels of emission zero. Frames are taken kFrames at a time: a Source gives the emissions
// of the utterance's own labels for such a block of frames, a Sink takes gamma, summed over equal labels.
#pragma once

#include <cstdint>
#include <cstring>

#include "base/arena.h"
#include "ctc/cpu/alpha_beta_in_registers.h"
#include "ctc/cpu/by_label.h"
#include "ctc/cpu/emissions.h"
#include "ctc/cpu/gradient.h"
#include "ctc/cpu/label_table.h"
#include "ctc/cpu/numbers.h"
#include "ctc/equations.h"

namespace ctcspeech {
namespace {

enum class Verdict { kGood, kOutOfRange };

template <class N, int kFrames>
class Recursion {
  using V = typename N::Vector;
  using Real = typename N::Real;
  static constexpr int W = N::W;
  static constexpr int64_t kUnit = N::kParts * W;  // reals of one number vector in memory
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
    Picks<V> picks;

    Memory(Arena& arena, const Layout& layout, int64_t width, bool with_gradient) {
      alpha = arena.take<Real>(layout.segment * layout.row);
      checkpoints = arena.take<Real>(with_gradient ? (layout.segments - 1) * layout.row : 0);
      passing = arena.take<Real>(2 * layout.row);
      start = arena.take<Real>((kMostBlocks<V> > 1 ? kMostBlocks<V> : 1) * 2 * kUnit);
      spread = arena.take<Real>(kFrames * layout.blocks * kUnit);
      columns = arena.take<Real>(width * kFrames);
      masks = arena.take<char>(layout.blocks * V::kMaskBytes);
      beta = arena.take<Real>(with_gradient ? layout.row : 0);
      occupied = arena.take<Real>(with_gradient ? kFrames * layout.blocks * W : 0);
      on_blank = arena.take<Real>(with_gradient ? kFrames * W : 0);
      sums = arena.take<Real>(with_gradient ? width * kFrames : 0);
      const bool small = with_gradient && width <= V::kSmallTable;
      picks.blocks = arena.take<typename Picks<V>::Block>(small ? layout.blocks : 0);
      picks.lanes = arena.take<int32_t>(small ? layout.blocks * Picks<V>::kMost * W : 0);
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
        narrow(from_table && layout.blocks <= kMostBlocks<V> && layout.segments <= 1 &&
               table.T >= 3 * table.L),
        picking(sink && from_table && m.picks.build(table.place, layout.blocks, table.L)) {
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
    log_z = log_upper - untilt();
    return Verdict::kGood;
  }

  // The same from one pass, uncertified: for emissions that another kind of number has been through.
  Verdict run_again(double& log_z) {
    if (!forward<true>(log_z)) return Verdict::kOutOfRange;
    log_z -= untilt();
    return Verdict::kGood;
  }

 private:
  double untilt() const { return 2 * static_cast<double>(table.L) * std::log(table.tilt); }

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
    const N floor = floor_value<N>();
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

  // Brings a row whose largest value is `largest` back into the range.
  template <bool kFloor>
  bool rescale(Real* row, int64_t low, int64_t high, Real largest, const Range& range,
               double& exponent) {
    if constexpr (!N::kExtended) {
      int shift;
      if (!needed_shift(largest, range, shift)) return false;
      if (shift == 0) return true;
      exponent -= shift;
      const N first = N::of(power_of_two(shift / 2));
      const N second = N::of(power_of_two(shift - shift / 2));
      const N floor = kFloor ? floor_value<N>() : N::zero();
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
    for (int64_t k = 0; k < (narrow ? layout.blocks : 1); ++k) clear(m.start, k);
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
        const FrameBlock<V> block = frame_block();
        if (!InRegisters<N, kFrames>(table, block)
                 .template forward<kFloor>(first, count, before, rows_out, exponent))
          return false;
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
    for (int f = count; f < kFrames && !picking; ++f) clear_occupied(f, low, high);
    if (narrow && !back_in_registers(first, count, alpha, exponent))
      return false;
    for (int f = count - 1; f >= 0 && !narrow; --f) {
      const int64_t t = first + f;
      const Real* row = alpha + f * layout.row;
      if (!picking) {
        clear_occupied(f, low, low_block(t) - 1);
        clear_occupied(f, high_block(t) + 1, high);
      }
      if (t % kRescaleEvery == 0) {
        const Real largest = back_step<true>(t, row, f);
        if (!rescale<false>(m.beta, low_block(t), high_block(t), largest, kBetaRange, exponent))
          return false;
      } else {
        back_step<false>(t, row, f);
      }
    }
    return pass_occupation(first, low, high, count);
  }

  FrameBlock<V> frame_block() const {
    return {layout.blocks, layout.row, m.masks, m.passing, m.beta, m.occupied, m.on_blank, m.sums,
            m.picks, rows};
  }
  bool back_in_registers(int64_t first, int count, const Real* alpha, double& exponent) const {
    const FrameBlock<V> block = frame_block();
    InRegisters<N, kFrames> recursion(table, block);
    return picking ? recursion.template backward<true>(first, count, alpha, exponent)
                   : recursion.template backward<false>(first, count, alpha, exponent);
  }

  // gamma of frame t, not yet normalised, and beta of frame t - 1 in place of beta of frame t.
  template <bool kLook>
  Real back_step(int64_t t, const Real* alpha, int f) {
    if constexpr (V::kSmallTable > 0) {
      if (picking) return back_step_with<kLook, true>(t, alpha, f, FromTable(*this, f));
      if (from_table) return back_step_with<kLook, false>(t, alpha, f, FromTable(*this, f));
    }
    return back_step_with<kLook, false>(t, alpha, f, FromSpread(*this, f));
  }

  template <bool kLook, bool kPick, class Emissions>
  Real back_step_with(int64_t t, const Real* alpha, int f, const Emissions emissions) {
    const int64_t low = low_block(t), high = high_block(t);
    const N blank = blank_emission(f), lambda = N::of(table.tilt), enter = N::of(table.enter(t));
    const N inverse_z = inverse_of_z();
    const char* const masks = m.masks;  // locals: vector stores may alias every member
    Real* const occupied = m.occupied + f * layout.blocks * W;
    Real* const beta = m.beta;
    const Picks<V> picks = m.picks;
    V on_blank = V::set(0), largest = V::set(0), lower = V::set(0), upper = V::set(0);
    N after = N::zero();
    for (int64_t k = high; k >= low; --k) {
      const N b = N::load(unit(beta, k, 0)), a = N::load(unit(beta, k, 1));
      on_blank = N::add_occupation(N::load(unit(alpha, k, 0)), b, inverse_z, on_blank);
      const V on_label = N::add_occupation(N::load(unit(alpha, k, 1)), a, inverse_z, V::set(0));
      if constexpr (kPick)
        picks.add(k, on_label, lower, upper);
      else
        on_label.store(occupied + k * W);
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
    if constexpr (kPick) frame_block().store_picked(f, table.width, lower, upper);
    return kLook && !N::kExtended ? largest.largest() : Real{1};
  }

  N inverse_of_z() const {
    if constexpr (N::kExtended)
      return {V::set(1 / z.m), V::set(-z.e)};
    else
      return N::zero();  // not looked at
  }

  void clear_occupied(int f, int64_t low, int64_t high) {
    for (int64_t k = low; k <= high; ++k)
      V::set(0).store(m.occupied + (f * layout.blocks + k) * W);
  }

  // Occupations by label position as sums by place, each frame adding up to 1, to the sink. False: a
  // frame has none, or too much.
  bool pass_occupation(int64_t first, int64_t low, int64_t high, int count) {
    if (picking) return pass_picked(first, count);
    const int64_t width = table.width;
    alignas(64) Real scale[kFrames];
    if constexpr (kTransposes) {
      for (int f = count; f < kFrames; ++f) V::set(0).store(m.on_blank + f * W);
      std::memset(m.columns, 0, width * kFrames * sizeof(Real));
      Spread<V>::to_places(m.occupied, table.place, low, high, layout.blocks, m.columns);
      sums_of_rows<V>(m.on_blank).store(m.columns + int64_t{table.blank} * W);
      V total[4] = {V::set(0), V::set(0), V::set(0), V::set(0)};  // chains to hide latency
      for (int64_t c = 0; c < width; c += 4)  // whole vectors, a multiple of 4
        for (int i = 0; i < 4; ++i) total[i] = V::add(total[i], V::load(m.columns + (c + i) * W));
      V::add(V::add(total[0], total[1]), V::add(total[2], total[3])).store(scale);
      if (!invert(scale, count)) return false;
      if (sink->take_columns(first, count, m.columns, scale)) return true;
      Spread<V>::to_rows(m.columns, width, m.sums);
    } else {
      std::memset(m.sums, 0, width * kFrames * sizeof(Real));
      for (int f = 0; f < count; ++f) {
        Real* sums = m.sums + f * width;
        const Real* occupied = m.occupied + f * layout.blocks * W;
        for (int64_t j = low * W; j < (high + 1) * W; ++j) sums[table.place[j]] += occupied[j];
        sums[table.blank] = V::load(m.on_blank + f * W).sum();
        scale[f] = 0;
        for (int64_t c = 0; c < width; ++c) scale[f] += sums[c];
      }
      if (!invert(scale, count)) return false;
    }
    sink->take(first, count, m.sums, scale);
    return true;
  }

  // The same where the labels' sums stand in m.sums already.
  bool pass_picked(int64_t first, int count) {
    if constexpr (V::kSmallTable > 0) {
      const int64_t width = table.width;
      alignas(64) Real scale[kFrames], on_blank[kFrames];
      V r[kFrames];
      for (int f = 0; f < kFrames; ++f) r[f] = f < count ? V::load(m.on_blank + f * W) : V::set(0);
      const auto add = [](V a, V b) { return V::add(a, b); };
      const V blanks = fold_rows(r, add);
      blanks.store(on_blank);
      for (int f = 0; f < kFrames; ++f) {
        r[f] = f < count ? V::load(m.sums + f * width) : V::set(0);
        if (f < count && width > W) r[f] = V::add(r[f], V::load(m.sums + f * width + W));
      }
      V::add(blanks, fold_rows(r, add)).store(scale);
      if (!invert(scale, count)) return false;
      for (int f = 0; f < count; ++f) m.sums[f * width + table.blank] = on_blank[f];
      sink->take(first, count, m.sums, scale);
    }
    return true;
  }

  // Sums of `count` frames to their inverses, 0 behind. False: one has no usable inverse.
  static bool invert(Real* x, int count) {
    for (int f = 0; f < kFrames; ++f) {
      if (f >= count)
        x[f] = 0;
      else if (!invert(x[f]))
        return false;
    }
    return true;
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
  const bool picking;  // occupations are summed by permutations
  const Real* rows = nullptr;  // of the table, for the present block of frames
  Scalar z;                    // of the forward pass
};

}  // namespace
}  // namespace ctcspeech
