// The CTC loss for many threads: what each block of each kernel does. The same source is run by the GPU
// (ctc/cuda/cuda_loss.cu) and, thread after thread in any order, by the tests on the host (ctc/cuda/on_host.cpp).
//
// Kernels, one after the other on a stream:
//
//   FindLabels    a block an utterance: checks lengths and labels, lists the distinct classes
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

#include "ctc/cuda/plan.h"

#ifdef __CUDACC__
#define CTC_UNROLL _Pragma("unroll")
#else
#define CTC_UNROLL
#endif

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

  CTC_DEVICE View(const Batch<Real>& b, int64_t n, const Item& item)
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

// ---- FindLabels ----------------------------------------------------------------------------------

template <class Real>
struct FindLabels {
  static constexpr int kThreads = 256;
  Batch<Real> b;

  template <class Block>
  CTC_DEVICE void operator()(Block& block) const {
    for (int64_t n = block.index(); n < b.batch; n += block.count()) one(block, n);
  }

 private:
  template <class Block>
  CTC_DEVICE void one(Block& block, int64_t n) const {
    const int threads = block.threads();
    typename Block::template Private<double> number(block), wrong(block);

    // Where concatenated labels begin: the sum of the lengths before, all of which must be sound.
    int64_t first = n * b.target_stride;
    Item item{};
    item.T = index_at(b.input_lengths, b.index_type, n);
    item.L = index_at(b.target_lengths, b.index_type, n);
    bool sound = item.T >= 0 && item.T <= b.frames && item.L >= 0 && item.L <= b.max_target_length;
    if (b.target_stride == CTCSPEECH_CONCATENATED) {
      block.alone([&](int thread) {
        number(thread) = wrong(thread) = 0;
        for (int64_t i = thread; i < n; i += threads) {
          const int64_t length = index_at(b.target_lengths, b.index_type, i);
          const bool fits = length >= 0 && length <= b.max_target_length;
          number(thread) += fits ? static_cast<double>(length) : 0.0;
          wrong(thread) += fits ? 0.0 : 1.0;
        }
      });
      first = static_cast<int64_t>(block.sum(number));
      sound = sound && block.sum(wrong) == 0 && item.L <= b.max_target_length - first;
    }
    if (!sound) item.L = 0;

    // Labels in range? How many equal neighbours?
    const auto label = [&](int64_t j) { return index_at(b.targets, b.index_type, first + j); };
    block.alone([&](int thread) {
      number(thread) = wrong(thread) = 0;
      for (int64_t j = thread; j < item.L; j += threads) {
        const int64_t c = label(j);
        const bool wild = b.allow_wildcard && c == CTCSPEECH_WILDCARD;
        wrong(thread) += wild || (c >= 0 && c < b.classes && c != b.blank) ? 0.0 : 1.0;
        number(thread) += j > 0 && !wild && c == label(j - 1) ? 1.0 : 0.0;
      }
    });
    const double repeats = block.sum(number);
    sound = sound && block.sum(wrong) == 0;
    const bool possible = static_cast<double>(item.L) + repeats <= static_cast<double>(item.T);
    const bool told_the_truth = item.L <= b.longest || !possible;  // about the longest target
    sound = sound && told_the_truth;

    item.open = sound && possible && item.T > 0;
    if (!sound || item.open) item.loss = not_a_number();
    else item.loss = possible ? 0.0 : kInfinity;
    if (!sound) item.T = item.T < 0 ? 0 : item.T > b.frames ? b.frames : item.T;
    item.weight = 1;
    if (b.reduction == CTCSPEECH_MEAN)
      item.weight /= static_cast<double>(b.batch) * static_cast<double>(item.L > 0 ? item.L : 1);
    if (item.open) {
      block.each([&](int thread) {
        for (int64_t j = thread; j < item.L; j += threads)
          b.labels[n * b.longest + j] = static_cast<int32_t>(label(j));
      });
      list_classes(block, n, item);
    }
    block.each([&](int thread) {
      if (thread == 0) b.items[n] = item;
    });
  }

  // The distinct classes and where each occurs. Quadratic in L, but no more so than the recursion, which
  // takes at least L frames of L labels.
  template <class Block>
  CTC_DEVICE void list_classes(Block& block, int64_t n, Item& item) const {
    const int threads = block.threads();
    const int64_t L = item.L;
    const int32_t* labels = b.labels + n * b.longest;
    int32_t* firsts = b.firsts + n * b.longest;
    typename Block::template Private<double> distinct(block), wild(block);
    block.each([&](int thread) {
      distinct(thread) = wild(thread) = 0;
      for (int64_t j = thread; j < L; j += threads) {
        int64_t i = 0;
        while (labels[i] != labels[j]) ++i;
        firsts[j] = i == j;
        distinct(thread) += i == j ? 1.0 : 0.0;
        wild(thread) += labels[j] == CTCSPEECH_WILDCARD ? 1.0 : 0.0;
      }
    });
    const int count = static_cast<int>(block.sum(distinct));
    item.width = count + 1;
    item.wildcards = block.sum(wild) > 0;
    block.each([&](int thread) {
      for (int64_t j = thread; j < L; j += threads) {
        int32_t rank = 0, smaller = 0;
        for (int64_t i = 0; i < L; ++i) {
          rank += labels[i] < labels[j] || (labels[i] == labels[j] && i < j);
          smaller += labels[i] < labels[j] && firsts[i];
        }
        b.order[n * b.longest + rank] = static_cast<int32_t>(j);
        b.places[n * b.longest + j] = smaller + 1;
        if (firsts[j]) {
          b.starts[n * b.width + smaller] = rank;
          b.own_classes[n * b.width + smaller + 1] = labels[j];
        }
      }
      if (thread == 0) {
        b.own_classes[n * b.width] = static_cast<int32_t>(b.blank);
        b.starts[n * b.width + count] = static_cast<int32_t>(L);
      }
    });
  }
};

// ---- NormaliseRows -------------------------------------------------------------------------------

// So many elements in 16 bytes, at an address that is a multiple of 16.
template <class Element>
struct alignas(16) Bundle {
  static constexpr int kCount = 16 / sizeof(Element);
  Element values[kCount];
};

template <int kCount>
struct Count {
  static constexpr int value = kCount;
};

// f(c, Count<k>) for classes c .. c + k - 1, shared out among a team: 16 bytes at a time, then the rest.
template <class Element, class F>
CTC_DEVICE void share_row(int64_t C, int member, int team, bool in_bundles, F f) {
  constexpr int kCount = Bundle<Element>::kCount;
  const int64_t bundles = in_bundles ? C / kCount : 0;
  for (int64_t i = member; i < bundles; i += team) f(i * kCount, Count<kCount>());
  for (int64_t c = bundles * kCount + member; c < C; c += team) f(c, Count<1>());
}

template <class Element, class Real>
struct NormaliseRows {
  static constexpr int kThreads = 256;
  Batch<Real> b;
  int team;

  template <class Block>
  CTC_DEVICE void operator()(Block& block) const {
    const int teams = block.threads() / team;
    const int64_t rows = b.batch * b.frames;
    typename Block::template Private<Real> high(block), own_high(block);
    typename Block::template Private<double> sum(block);
    for (int64_t base = block.index() * teams; base < rows; base += block.count() * teams) {
      block.alone([&](int thread) {
        own_high(thread) = -static_cast<Real>(kInfinity);
        sum(thread) = 0;
        const int64_t row = base + thread / team;
        if (row < rows) measure(row, thread % team, own_high(thread), sum(thread));
        high(thread) = own_high(thread);
      });
      block.team_max(team, high);
      block.alone([&](int thread) {
        if (own_high(thread) > -static_cast<Real>(kInfinity))
          sum(thread) *= static_cast<double>(std::exp(own_high(thread) - high(thread)));
      });
      block.team_sum(team, sum);
      block.alone([&](int thread) {
        const int64_t row = base + thread / team;
        if (row < rows) write(row, thread % team, high(thread), sum(thread));
      });
    }
  }

 private:
  struct Place {
    int64_t t, n;
  };
  CTC_DEVICE Place place(int64_t row) const {
    if (row <= 0x7fffffff && b.batch <= 0x7fffffff) {  // the quicker division
      const auto r = static_cast<uint32_t>(row), N = static_cast<uint32_t>(b.batch);
      return {r / N, r % N};
    }
    return {row / b.batch, row % b.batch};
  }
  CTC_DEVICE const Element* logits(Place p) const {
    return static_cast<const Element*>(b.logits) + p.t * b.frame_stride + p.n * b.batch_stride;
  }
  CTC_DEVICE static bool aligned(const void* p) {
    return reinterpret_cast<uintptr_t>(p) % sizeof(Bundle<Element>) == 0;
  }

  // This member's part of the row: its maximum and the sum of exp(x - maximum). A maximum of +infinity
  // stands for NaN too.
  CTC_DEVICE void measure(int64_t row, int member, Real& high, double& sum) const {
    const Place p = place(row);
    const Item& item = b.items[p.n];
    if (!item.open || p.t >= item.T) return;
    const Element* x = logits(p);
    const Real infinity = static_cast<Real>(kInfinity);
    Real partial = 0;
    bool finite = true;
    share_row<Element>(b.classes, member, team, aligned(x), [&](int64_t c, auto count) {
      Real values[count.value];
      load(x + c, values, count);
      Real top = high;
      CTC_UNROLL for (int k = 0; k < count.value; ++k) {
        finite = finite && values[k] < infinity;  // neither NaN nor +infinity
        top = values[k] > top ? values[k] : top;
      }
      if (top > high) {
        partial *= std::exp(high - top);
        high = top;
      }
      if (high > -infinity)
        CTC_UNROLL for (int k = 0; k < count.value; ++k) partial += std::exp(values[k] - high);
    });
    if (!finite) high = infinity;
    sum = static_cast<double>(partial);
  }

  // The frame's statistics, the scores of the own classes, the softmax where the gradient will be.
  CTC_DEVICE void write(int64_t row, int member, Real high, double sum) const {
    const Place p = place(row);
    const Item& item = b.items[p.n];
    if (!item.open || p.t >= item.T) {
      const bool wrong = p.t < item.T && item.loss != item.loss;
      if (b.gradient) fill(p, member, wrong ? static_cast<Real>(not_a_number()) : Real(0));
      return;
    }
    const Real infinity = static_cast<Real>(kInfinity);
    FrameStats<Real> frame{high, static_cast<Real>(1 / sum)};
    if (high == infinity) frame = {static_cast<Real>(not_a_number()), 1};
    if (high == -infinity) frame = {0, 0};  // -infinity throughout: every p is 0
    if (member == 0) b.stats[p.n * b.frames + p.t] = frame;
    const Element* x = logits(p);
    if (b.compact) {
      const int32_t* own = b.own_classes + p.n * b.width;
      Element* scores = static_cast<Element*>(b.scores) + p.n * b.frames * b.width + p.t * item.width;
      for (int u = member; u < item.width; u += team)
        if (own[u] >= 0) scores[u] = x[own[u]];
        else from_real(Real(0), scores[u]);
    }
    if (!b.gradient) return;
    Element* g = gradient(p);
    const Real factor = static_cast<Real>(item.weight) * frame.inverse;
    share_row<Element>(b.classes, member, team, aligned(x) && aligned(g),
                       [&](int64_t c, auto count) {
                         Real values[count.value];
                         load(x + c, values, count);
                         CTC_UNROLL for (int k = 0; k < count.value; ++k)
                           values[k] = factor * std::exp(values[k] - frame.high);
                         store(values, g + c, count);
                       });
  }

  CTC_DEVICE void fill(Place p, int member, Real value) const {
    Element* g = gradient(p);
    share_row<Element>(b.classes, member, team, aligned(g), [&](int64_t c, auto count) {
      Real values[count.value];
      CTC_UNROLL for (int k = 0; k < count.value; ++k) values[k] = value;
      store(values, g + c, count);
    });
  }

  CTC_DEVICE Element* gradient(Place p) const {
    return static_cast<Element*>(b.gradient) + p.t * b.gradient_frame_stride +
           p.n * b.gradient_batch_stride;
  }

  template <int kCount>
  CTC_DEVICE static void load(const Element* from, Real* values, Count<kCount>) {
    if constexpr (kCount == 1) {
      values[0] = to_real(*from);
    } else {
      const auto bundle = *reinterpret_cast<const Bundle<Element>*>(from);
      CTC_UNROLL for (int k = 0; k < kCount; ++k) values[k] = to_real(bundle.values[k]);
    }
  }
  template <int kCount>
  CTC_DEVICE static void store(const Real* values, Element* to, Count<kCount>) {
    if constexpr (kCount == 1) {
      from_real(values[0], *to);
    } else {
      Bundle<Element> bundle;
      CTC_UNROLL for (int k = 0; k < kCount; ++k) from_real(values[k], bundle.values[k]);
      *reinterpret_cast<Bundle<Element>*>(to) = bundle;
    }
  }
};

}  // namespace
}  // namespace ctcspeech
