// The kernel that normalises the frames: softmax into the gradient, scores of the utterance's classes.
#pragma once

#include "ctc/cuda/lattice.h"

namespace ctcspeech {
namespace {

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
    const UtteranceState& item = b.states[p.n];
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
    const UtteranceState& item = b.states[p.n];
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
