// The gradient of the segments: alpha and beta once more from the seams, gamma, softmax - gamma.
#pragma once

#include "ctc/cuda/lattice.h"

namespace ctcspeech {
namespace {

template <class Real>
struct FillSegments {
  static constexpr int kThreads = kMostThreads;
  Batch<Real> b;

  template <class Block>
  CTC_DEVICE void operator()(Block& block) const {
    char* memory =
        b.segment_scratch_bytes
            ? b.segment_scratch + block.index() * static_cast<int64_t>(b.segment_scratch_bytes)
            : block.shared();
    const SegmentScratch<Real> scratch(memory, b.positions(), b.segment, b.width);
    for (int64_t work = block.index(); work < b.batch * b.segments; work += block.count()) {
      const int64_t n = work / b.segments;
      Segment s;
      s.index = work % b.segments;
      s.first = s.index * b.segment;
      const UtteranceState item = b.states[n];
      if (!item.open || s.first >= item.T) continue;
      s.count = static_cast<int>(b.segment < item.T - s.first ? b.segment : item.T - s.first);
      if (item.loss < kInfinity) {
        const View<Real> u(b, n, item);
        occupy(block, u, s, scratch);
        write(block, u, s, item, scratch);
      } else {
        fill(block, n, s, item.loss == kInfinity ? Real(0) : static_cast<Real>(not_a_number()));
      }
    }
  }

 private:
  struct Segment {
    int64_t index, first;  // its first frame
    int count;             // of frames
  };

  // f(k, u) for frames k < count and places u < width, shared out among the threads.
  template <class Block, class F>
  CTC_DEVICE static void each_place(Block& block, int count, int width, F f) {
    block.each([&](int thread) {
      int k = 0, place = thread;
      while (true) {
        while (place >= width) place -= width, ++k;
        if (k >= count) break;
        f(k, place);
        place += block.threads();
      }
    });
  }

  // An impossible utterance, or one that holds NaN: known only at the end of the forward chain.
  template <class Block>
  CTC_DEVICE void fill(Block& block, int64_t n, const Segment& s, Real value) const {
    block.each([&](int thread) {
      for (int k = 0; k < s.count; ++k)
        for (int64_t c = thread; c < b.classes; c += block.threads())
          store_gradient(b, s.first + k, n, c, value);
    });
  }

  // gamma of every frame and position, in place of the mantissas of alpha.
  template <class Block>
  CTC_DEVICE void occupy(Block& block, const View<Real>& u, const Segment& s,
                         const SegmentScratch<Real>& m) const {
    const int64_t L = u.L, width = u.width;
    const int threads = block.threads();
    Pair<Real>*spare = m.rows[0], *next = m.rows[1];
    each_place(block, s.count, u.width, [&](int k, int place) {
      m.emissions[k * width + place] =
          u.probability(u.score(s.first + k, place), u.stats[s.first + k], place);
    });
    const bool at_start = s.index == 0, at_end = s.first + s.count == u.T;
    typename Block::template Private<Position> mine(block);
    block.each([&](int thread) {
      mine(thread) = u.position(thread);
      for (int64_t j = thread; j <= L; j += threads)
        spare[j] = at_start ? u.start(j) : b.alpha_seams[u.seam(s.index) + j];
    });
    const Pair<Real>* before = spare;
    for (int k = 0; k < s.count; ++k) {
      const Extended<Real>* p = m.emissions + k * width;
      const Extended<Real> enter = u.enter(s.first + k);
      Pair<Real>* alpha = m.alpha + k * b.positions();
      block.each([&](int thread) {
        for (int64_t j = thread; j <= L; j += threads) {
          const Position own = j == thread ? mine(thread) : u.position(j);
          alpha[j] = forward_step(before, j, L, own.skip, p[0], p[own.place], enter);
        }
      });
      before = alpha;
    }

    Pair<Real>* now = spare;
    block.each([&](int thread) {
      for (int64_t j = thread; j <= L; j += threads)
        now[j] = at_end ? u.end(j) : b.beta_seams[u.seam(s.index) + j];
    });
    const Extended<Real> over_z = inverse(b.totals[u.n]);
    for (int k = s.count - 1; k >= 0; --k) {
      const Extended<Real>* p = m.emissions + k * width;
      const Extended<Real> enter = u.enter(s.first + k);
      Pair<Real>* alpha = m.alpha + k * b.positions();
      block.each([&](int thread) {
        for (int64_t j = thread; j <= L; j += threads) {
          alpha[j].b.m = plain_product(alpha[j].b, now[j].b, over_z);
          alpha[j].a.m = plain_product(alpha[j].a, now[j].a, over_z);
          if (k == 0) continue;
          const Position own = j == thread ? mine(thread) : u.position(j);
          next[j] = backward_step(now, j, L, own.next_skip, p[0], p[own.place],
                                  p[own.next_place], enter);
        }
      });
      Pair<Real>* swapped = now;
      now = next, next = swapped;
    }
  }

  // softmax - gamma for the utterance's own classes; the softmax of the others is there already. gamma is
  // normalised by its own frame's sum, so that the rounding of Z does not matter.
  template <class Block>
  CTC_DEVICE void write(Block& block, const View<Real>& u, const Segment& s, const UtteranceState& item,
                        const SegmentScratch<Real>& m) const {
    const int width = u.width;
    each_place(block, s.count, width, [&](int k, int place) {
      const Pair<Real>* gamma = m.alpha + k * b.positions();
      Real sum = 0;
      if (place == 0)
        for (int64_t j = 0; j <= u.L; ++j) sum += gamma[j].b.m;
      else
        for (int r = u.starts[place - 1]; r < u.starts[place]; ++r) sum += gamma[u.order[r]].a.m;
      m.sums[k * width + place] = sum;
    });
    block.each([&](int thread) {
      for (int k = thread; k < s.count; k += block.threads()) {
        Real total = 0;
        for (int place = 0; place < width; ++place) total += m.sums[k * width + place];
        m.totals[k] = total;
      }
    });
    const Real weight = static_cast<Real>(item.weight);
    // What a wildcard takes up asks nothing of its frame's softmax. It sorts first: place 1.
    const auto known = [&](int k) {
      return item.wildcards ? Real(1) - m.sums[k * width + 1] / m.totals[k] : Real(1);
    };
    if (item.wildcards) rewrite_softmax(block, u, s, weight, known);
    each_place(block, s.count, width, [&](int k, int place) {
      const int32_t c = u.own_classes[place];
      if (c < 0) return;
      const Real gamma = m.sums[k * width + place] / m.totals[k];
      const Real softmax = plain(m.emissions[k * width + place]);
      store_gradient(b, s.first + k, u.n, c, weight * (known(k) * softmax - gamma));
    });
  }

  template <class Block, class Known>
  CTC_DEVICE void rewrite_softmax(Block& block, const View<Real>& u, const Segment& s, Real weight,
                                  Known known) const {
    block.each([&](int thread) {
      for (int k = 0; k < s.count; ++k) {
        const FrameStats<Real> frame = u.stats[s.first + k];
        const Real factor = weight * known(k) * frame.inverse;
        for (int64_t c = thread; c < b.classes; c += block.threads())
          store_gradient(b, s.first + k, u.n, c,
                         factor * std::exp(u.logit(s.first + k, c) - frame.high));
      }
    });
  }
};

}  // namespace
}  // namespace ctcspeech
