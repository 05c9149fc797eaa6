// The CTC loss for many threads: what each block of each kernel does. The same source is run by the GPU
// (ctc/cuda/cuda_loss.cu) and, thread after thread in any order, by the tests on the host (ctc/cuda/on_host.cpp).
//
// Kernels, one after the other on a stream:
//
//   FindLabels    (find_labels.h) a block an utterance: checks lengths and labels, lists the distinct classes
//   NormaliseRows a warp (or block) a frame: softmax into the gradient, scores of the utterance's classes
//   RunChains     a block an utterance and direction: alpha forwards, beta backwards, kept at the seams of
//                 segments; the loss
//   FillSegments  a block a segment: alpha and beta from the seams, gamma, the gradient of the own classes
//   Finish        one block: losses and their reduction
//
// Every frame is thus read once and written once as a whole; two chains of T short steps are the only
// serial part. The recursion is that of ctc/equations.h without the tilt: its numbers have exponents of their
// own (ctc/cuda/number.h), which need no rescaling and no certificate. Sums are taken in a fixed order, so the
// result has the same bits each time.
//
// What a kernel is written against:
//
//   block.index(), count()     which block this is, and of how many
//   block.threads()
//   block.each(f)              f(thread) in every thread, then a barrier
//   block.alone(f)             f(thread) in every thread that touches only what is its own; no barrier
//   Block::Private<T> x(block) a T of each thread: x(thread)
//   block.sum(x)               the sum over all threads, to all; x a Private<double>
//   block.team_sum(team, x), team_max(team, x)    the same among `team` neighbouring threads, into x
//   block.shared()             the block's shared memory
//
// Between two barriers no thread reads what another writes. Whether a barrier is reached never depends on
// the thread.
#pragma once

#include "base/compiler.h"
#include "ctc/cuda/plan.h"

namespace ctcspeech {
namespace {

CTC_DEVICE double not_a_number() { return bit_cast<double>(uint64_t{0x7ff8000000000000}); }

CTC_DEVICE int64_t index_at(const void* array, int32_t type, int64_t i) {
  return type == CTCSPEECH_INT32 ? static_cast<const int32_t*>(array)[i]
                                 : static_cast<const int64_t*>(array)[i];
}

// ---- the recursion, one label position at a time -------------------------------------------------

// alpha of position j at a frame from the row before it: p_blank and p_label of the frame, `enter` the
// weight of entering a label. (See ctc/equations.h; skip is its m_j.)
template <class Real>
CTC_DEVICE Pair<Real> forward_step(const Pair<Real>* before, int64_t j, int64_t L, bool skip,
                                   Extended<Real> p_blank, Extended<Real> p_label,
                                   Extended<Real> enter) {
  const Pair<Real> own = before[j];
  const Extended<Real> x = j > 0 ? plus(own.b, before[j - 1].a) : own.b;
  Pair<Real> after;
  after.b = normalised(times(p_blank, x));
  after.a = j < L ? normalised(times(p_label, plus(own.a, times(enter, skip ? x : own.b))))
                  : extended_zero<Real>();
  return after;
}

// beta of position j at the frame before from beta at a frame and that frame's probabilities.
// `next_*` are of position j + 1.
template <class Real>
CTC_DEVICE Pair<Real> backward_step(const Pair<Real>* now, int64_t j, int64_t L, bool next_skip,
                                    Extended<Real> p_blank, Extended<Real> p_label,
                                    Extended<Real> p_next_label, Extended<Real> enter) {
  const Extended<Real> u_b = times(p_blank, now[j].b);
  if (j == L) return {normalised(u_b), extended_zero<Real>()};
  const Extended<Real> u_a = times(p_label, now[j].a);
  Extended<Real> onward = times(p_blank, now[j + 1].b);
  if (next_skip) onward = plus(onward, times(enter, times(p_next_label, now[j + 1].a)));
  return {normalised(plus(u_b, times(enter, u_a))), normalised(plus(u_a, onward))};
}

// ---- an utterance as the later kernels see it ----------------------------------------------------

// Where label j and label j + 1 are found among the distinct classes, and whether the blank before each
// may be skipped.
struct Position {
  int place, next_place;
  bool skip, next_skip;
};

template <class Real>
struct View {
  using Number = Extended<Real>;
  using Exponent = typename Number::Exponent;

  int64_t n, T, L;
  int width;
  const int32_t *labels, *places, *order, *starts, *own_classes;
  const FrameStats<Real>* stats;
  Exponent limit;
  const Batch<Real>& b;

  CTC_DEVICE View(const Batch<Real>& b, int64_t n, const UtteranceState& item)
      : n(n), T(item.T), L(item.L), width(item.width), labels(b.labels + n * b.longest),
        places(b.places + n * b.longest), order(b.order + n * b.longest),
        starts(b.starts + n * b.width), own_classes(b.own_classes + n * b.width),
        stats(b.stats + n * b.frames), b(b) {
    // Emissions and weights of T frames together stay within the range of exponents.
    limit = static_cast<Exponent>(Format<Real>::kRange / (T + 2) / (b.delay_penalty != 0 ? 2 : 1));
  }

  CTC_DEVICE bool skip(int64_t j) const {  // from label j - 1 to label j without a blank
    return j == 0 || labels[j] != labels[j - 1] || labels[j] == CTCSPEECH_WILDCARD;
  }

  CTC_DEVICE Position position(int64_t j) const {
    const bool label = j < L, next_label = j + 1 < L;
    return {label ? places[j] : 0, next_label ? places[j + 1] : 0, label && skip(j),
            next_label && skip(j + 1)};
  }

  CTC_DEVICE Number enter(int64_t t) const {
    if (b.delay_penalty == 0) return extended_one<Real>();
    const double distance = static_cast<double>(T - 1) / 2 - static_cast<double>(t);
    return exponential<Real>(b.delay_penalty * distance, Real(1), limit);
  }

  CTC_DEVICE Real read(const void* from, int64_t at) const {
    if constexpr (sizeof(Real) == 8) return static_cast<const double*>(from)[at];
    else if (b.type == CTCSPEECH_FLOAT16) return to_real(static_cast<const Half*>(from)[at]);
    else if (b.type == CTCSPEECH_BFLOAT16) return to_real(static_cast<const BFloat16*>(from)[at]);
    else return static_cast<const float*>(from)[at];
  }

  CTC_DEVICE Real logit(int64_t t, int64_t c) const {
    return read(b.logits, t * b.frame_stride + n * b.batch_stride + c);
  }

  // The logit of the class at place u; anything for the wildcard.
  CTC_DEVICE Real score(int64_t t, int u) const {
    if (b.compact) return read(b.scores, n * b.frames * b.width + t * width + u);
    return own_classes[u] < 0 ? Real(0) : logit(t, own_classes[u]);
  }

  // p(class at place u | frame)
  CTC_DEVICE Number probability(Real score, FrameStats<Real> frame, int u) const {
    if (own_classes[u] < 0) return exponential<Real>(-b.wildcard_penalty, Real(1), limit);
    const double x = static_cast<double>(score) - static_cast<double>(frame.high);
    return exponential<Real>(x, frame.inverse, limit);
  }

  CTC_DEVICE int64_t seam(int64_t segment) const {
    return (n * b.segments + segment) * b.positions();
  }

  // Before the first frame: at blank 0 for certain.
  CTC_DEVICE static Pair<Real> start(int64_t j) {
    return {j == 0 ? extended_one<Real>() : extended_zero<Real>(), extended_zero<Real>()};
  }
  // beta at the last frame: the last blank or the last label may be the end.
  CTC_DEVICE Pair<Real> end(int64_t j) const {
    return {j == L ? extended_one<Real>() : extended_zero<Real>(),
            j == L - 1 ? extended_one<Real>() : extended_zero<Real>()};
  }
};

template <class Real>
CTC_DEVICE void store_gradient(const Batch<Real>& b, int64_t t, int64_t n, int64_t c, Real value) {
  const int64_t at = t * b.gradient_frame_stride + n * b.gradient_batch_stride + c;
  if constexpr (sizeof(Real) == 8) {
    static_cast<double*>(b.gradient)[at] = value;
  } else {
    if (b.type == CTCSPEECH_FLOAT16) from_real(value, static_cast<Half*>(b.gradient)[at]);
    else if (b.type == CTCSPEECH_BFLOAT16) from_real(value, static_cast<BFloat16*>(b.gradient)[at]);
    else static_cast<float*>(b.gradient)[at] = value;
  }
}

}  // namespace
}  // namespace ctcspeech
