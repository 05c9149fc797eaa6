// The fast CTC loss of one utterance: softmax, then the recursion in the cheapest kind of number that
// holds it: float, double, double with an exponent a lane; at last the log-space reference. Each file
// fast_loss_<isa>.cpp includes this and instantiates it for its vectors.
#pragma once

#include "ctc/cpu/alpha_beta.h"
#include "ctc/cpu/emissions.h"
#include "ctc/cpu/fast_loss_table.h"
#include "ctc/cpu/gradient.h"
#include "ctc/cpu/softmax.h"
#include "ctc/utterance.h"

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace ctcspeech {
namespace {

// Numbers below the normal range become zero while this lives: they are dear, and the certificate
// accounts for them.
class FlushToZero {
 public:
#if defined(__SSE2__)
  FlushToZero() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040u); }
  ~FlushToZero() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#elif defined(__aarch64__)
  FlushToZero() {
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved_));
    __asm__ volatile("msr fpcr, %0" ::"r"(saved_ | (uint64_t{1} << 24)));
  }
  ~FlushToZero() { __asm__ volatile("msr fpcr, %0" ::"r"(saved_)); }

 private:
  uint64_t saved_;
#endif
};

template <class Element, class FloatV, class DoubleV>
class FastLoss {
  static constexpr bool kDouble = sizeof(Element) == 8;
  using V = std::conditional_t<kDouble, DoubleV, FloatV>;
  using Real = typename V::Real;
  static constexpr int kFrames = FloatV::W;
  static constexpr int kLanes = FloatV::W;  // tables are padded to the widest vector
  using Single = Recursion<PlainVector<FloatV>, kFrames>;
  using Double = Recursion<PlainVector<DoubleV>, kFrames>;
  using Wide = Recursion<ExtendedVector<DoubleV>, kFrames>;

  static int64_t padded(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

  // Keep::kRows pays while a row is a handful of vectors.
  static constexpr int64_t kFewClasses = 62;

  struct Memory {
    int32_t *place, *place_of_class, *classes;
    bool *differs, *used;
    Real *high, *inverse, *own, *table, *scratch;

    Memory(Arena& arena, int64_t T, int64_t C, int64_t L) {
      const bool few = C <= kFewClasses;
      const int64_t most = few ? C : (L + 1 < C ? L + 1 : C);
      place = arena.take<int32_t>(padded(L + 1));
      differs = arena.take<bool>(padded(L + 1));
      classes = arena.take<int32_t>(most);
      used = arena.take<bool>(most);
      place_of_class = arena.take<int32_t>(C);
      high = arena.take<Real>(T);
      inverse = arena.take<Real>(T);
      own = arena.take<Real>(T);
      table = arena.take<Real>((T + kFrames) * table_width(C, L));
      scratch = arena.take<Real>(2 * C);
    }
  };

  // Room for every place, `nothing` and the wildcard.
  static int64_t table_width(int64_t C, int64_t L) {
    return padded((C <= kFewClasses ? C : (L + 1 < C ? L + 1 : C)) + 2);
  }

 public:
  static size_t workspace(int64_t T, int64_t C, int64_t L, bool with_gradient) {
    Arena arena(nullptr);
    Memory(arena, T, C, L);
    const int64_t width = table_width(C, L);
    size_t stage = reference_workspace(T, C, L, with_gradient);
    const size_t buffer = static_cast<size_t>(kFrames * 2 * width) * sizeof(double) + 64;
    const size_t needs[] = {kDouble ? 0 : Single::workspace(T, L, width, with_gradient),
                            Double::workspace(T, L, width, with_gradient) + buffer,
                            Wide::workspace(T, L, width, with_gradient) + buffer};
    for (size_t need : needs) stage = need > stage ? need : stage;
    return arena.used() + stage;
  }

  FastLoss(const Utterance<Element>& u, void* memory, int arithmetic)
      : u(u), memory(memory), arena(memory), m(arena, u.T, u.C, u.L),
        least(arithmetic) {}

  FastResult run() {
    if (u.T == 0 || frames_needed(u.labels, u.L) > u.T) return fall_back();
    FlushToZero flush;
    make_table();
    Softmax<Element, V> softmax(u, own, keep, table.width, m.table, m.scratch, scales);
    scales.high = m.high;
    scales.inverse = m.inverse;
    scales.own = m.own;
    if (!softmax.run()) return not_a_number();
    double loss;
    if constexpr (!kDouble)
      if (least <= kSingle && keep != Keep::kNothing && !scales.underflow && in_float(loss)) {
        if (small(loss, u.T)) refine(loss);
        return {loss, kSingle};
      }
    if (least <= kTwice && in_double<Double>(loss)) return {loss, kTwice};
    if (least <= kWide && in_double<Wide>(loss)) return {loss, kWide};
    return fall_back();
  }

 private:
  void make_table() {
    bool wildcard = false;
    for (int64_t j = 0; j < u.L; ++j) wildcard |= u.labels[j] == CTCSPEECH_WILDCARD;
    has_wildcard = wildcard;
    const bool few = u.C <= kFewClasses && !wildcard && !kDouble;
    keep = wildcard || kDouble ? Keep::kNothing : few ? Keep::kRows : Keep::kWritten;
    table.T = u.T;
    table.L = u.L;
    table.place = m.place;
    table.differs = m.differs;
    table.tilt = tilt(u.T, u.L);
    table.delay_penalty = u.terms.delay_penalty;
    own.classes = m.classes;
    own.used = m.used;
    if (few) {  // places are classes
      own.count = u.C;
      for (int64_t c = 0; c < u.C; ++c) m.classes[c] = static_cast<int32_t>(c);
      table.blank = static_cast<int32_t>(u.blank);
    } else {
      number_labels();
    }
    std::memset(m.used, !few, own.count * sizeof(bool));
    m.used[table.blank] = true;
    table.nothing = static_cast<int32_t>(own.count);
    table.wildcard = table.nothing + 1;
    table.width = padded(own.count + 2);
    for (int64_t j = 0; j < padded(u.L + 1); ++j) {
      const bool inside = j < u.L;
      const int32_t label = inside ? u.labels[j] : 0;
      m.differs[j] = inside && j > 0 && (label != u.labels[j - 1] || label == CTCSPEECH_WILDCARD);
      m.place[j] = !inside                       ? table.nothing
                   : label == CTCSPEECH_WILDCARD ? table.wildcard
                   : few                         ? label
                                                 : m.place_of_class[label];
      if (inside && few) m.used[label] = true;
    }
  }

  // Places in the order of first appearance, the blank first.
  void number_labels() {
    for (int64_t c = 0; c < u.C; ++c) m.place_of_class[c] = -1;
    table.blank = 0;
    m.classes[0] = static_cast<int32_t>(u.blank);
    m.place_of_class[u.blank] = 0;
    own.count = 1;
    for (int64_t j = 0; j < u.L; ++j) {
      const int32_t label = u.labels[j];
      if (label == CTCSPEECH_WILDCARD || m.place_of_class[label] >= 0) continue;
      m.classes[own.count] = label;
      m.place_of_class[label] = static_cast<int32_t>(own.count++);
    }
  }

  bool in_float(double& loss) {
    Arena stage = arena;
    TableSource<float> source(m.table, table.width);
    GradientSink<Element, V, float> sink(u, own, table, keep, m.table, m.scratch, scales);
    Single recursion(table, source, u.gradient ? &sink : nullptr, stage);
    // the last block of frames reads whole vectors of rows
    std::memset(m.table + u.T * table.width, 0, kFrames * table.width * sizeof(float));
    double log_z;
    if (recursion.run(log_z) != Verdict::kGood) return false;
    loss = scales.log_sums - scales.own_highs - log_z;
    return true;
  }

  // The loss of a certain utterance, by the emissions that float has made: a frame's largest is 1 and
  // exact, and the others' rounding matters by as much as they do. What must not be rounded is the product
  // over the frames, and the sums of a row, which are nearly 1.
  void refine(double& loss) {
    Arena stage = arena;
    auto* buffer = stage.template take<double>(kFrames * table.width);
    WideningSource source(m.table, table.width, buffer);
    Double recursion(table, source, nullptr, stage);
    double log_z;
    if (recursion.run_again(log_z) != Verdict::kGood) return;
    loss = exact_log_sums<Element, V>(u, keep, m.table, table.width, m.scratch, scales) -
           scales.own_highs - log_z;
  }

  template <class Stage>
  bool in_double(double& loss) {
    using N = typename Stage::Number;
    Arena stage = arena;
    auto* buffer = stage.template take<double>(kFrames * N::kParts * table.width);
    LogitSource<Element, N, Real> source(u, own, table, scales, has_wildcard, buffer);
    GradientSink<Element, V, double> sink(u, own, table, keep, m.table, m.scratch, scales);
    Stage recursion(table, source, u.gradient ? &sink : nullptr, stage);
    double log_z;
    if (recursion.run(log_z) != Verdict::kGood) return false;
    loss = scales.log_sums + source.shift() - log_z;
    return true;
  }

  FastResult not_a_number() {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    if (u.gradient) fill_gradient(u, nan);
    return {nan, kSingle};
  }
  FastResult fall_back() { return {reference_loss(u, memory), kLogSpace}; }

  const Utterance<Element>& u;
  void* memory;
  Arena arena;
  Memory m;
  const int least;  // the first kind of number to try
  OwnLabels own{};
  LabelTable table{};
  FrameScales<Real> scales{};
  Keep keep{};
  bool has_wildcard = false;
};

template <class Element, class FloatV, class DoubleV>
FastResult fast_loss(const Utterance<Element>& u, void* workspace, int arithmetic) {
  return FastLoss<Element, FloatV, DoubleV>(u, workspace, arithmetic).run();
}

template <class FloatV, class DoubleV>
FastPath make_fast_path() {
  FastPath path;
  path.float32 = fast_loss<float, FloatV, DoubleV>;
  path.float64 = fast_loss<double, FloatV, DoubleV>;
  path.float16 = fast_loss<Half, FloatV, DoubleV>;
  path.bfloat16 = fast_loss<BFloat16, FloatV, DoubleV>;
  path.workspace = FastLoss<float, FloatV, DoubleV>::workspace;
  path.workspace64 = FastLoss<double, FloatV, DoubleV>::workspace;
  return path;
}

}  // namespace
}  // namespace ctcspeech
