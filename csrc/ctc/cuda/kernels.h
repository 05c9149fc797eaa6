// The second half of ctc/cuda/lattice.h: the recursion along an utterance, and the gradient of its segments.
#pragma once

#include "ctc/cuda/lattice.h"

namespace ctcspeech {
namespace {

// ---- RunChains -----------------------------------------------------------------------------------

// The probabilities of an utterance's own classes, chunk by chunk of frames. While a chunk is in use the
// scores of the next are on their way to each thread's registers.
template <class Block, class Real>
class Emissions {
 public:
  CTC_DEVICE Emissions(Block& block, const View<Real>& u, Extended<Real>* rows, bool forward)
      : block(block), u(u), rows(rows), chunk(u.b.chunk), held(block) {
    ahead = int64_t{chunk} * u.width <= int64_t{kHeld} * block.threads();
    direction = forward ? 1 : -1;
    first = forward ? 0 : (u.T - 1) / chunk * chunk;
    if (ahead) block.alone([&](int thread) { load(first, thread); });
    turn();
  }

  // Frame t's row, by place. All threads ask together, frame after frame.
  CTC_DEVICE const Extended<Real>* row(int64_t t) {
    if (t < first || t >= first + chunk) {
      first += direction * chunk;
      turn();
    }
    return rows + (t - first) * u.width;
  }

 private:
  struct Held {
    Real score[kHeld];
    FrameStats<Real> frame[kHeld];
  };

  CTC_DEVICE int numbers(int64_t begin) const {  // in the chunk that begins at this frame
    if (begin < 0 || begin >= u.T) return 0;
    const int64_t frames = u.T - begin < chunk ? u.T - begin : chunk;
    return static_cast<int>(frames) * u.width;
  }

  CTC_DEVICE void load(int64_t begin, int thread) {
    const int count = numbers(begin);
    CTC_UNROLL for (int k = 0; k < kHeld; ++k) {
      const int i = thread + k * block.threads();
      if (i >= count) continue;
      held(thread).score[k] = u.score(begin + i / u.width, i % u.width);
      held(thread).frame[k] = u.stats[begin + i / u.width];
    }
  }

  // The scores become probabilities of the chunk at `first`. Nobody needs the chunk before any more: the
  // last step ended with a barrier.
  CTC_DEVICE void turn() {
    const int count = numbers(first);
    block.each([&](int thread) {
      if (ahead) {
        CTC_UNROLL for (int k = 0; k < kHeld; ++k) {
          const int i = thread + k * block.threads();
          if (i < count)
            rows[i] = u.probability(held(thread).score[k], held(thread).frame[k], i % u.width);
        }
        load(first + direction * chunk, thread);
      } else {
        for (int i = thread; i < count; i += block.threads()) {
          const int64_t t = first + i / u.width;
          rows[i] = u.probability(u.score(t, i % u.width), u.stats[t], i % u.width);
        }
      }
    });
  }

  Block& block;
  const View<Real>& u;
  Extended<Real>* rows;
  const int chunk;
  typename Block::template Private<Held> held;
  bool ahead;
  int64_t direction, first;
};

template <class Real>
struct RunChains {
  static constexpr int kThreads = kMostThreads;
  Batch<Real> b;

  template <class Block>
  CTC_DEVICE void operator()(Block& block) const {
    const int directions = b.gradient ? 2 : 1;
    char* memory = b.chain_scratch_bytes
                       ? b.chain_scratch + block.index() * static_cast<int64_t>(b.chain_scratch_bytes)
                       : block.shared();
    const ChainScratch<Real> scratch(memory, b.positions(), b.chunk, b.width);
    for (int64_t work = block.index(); work < b.batch * directions; work += block.count()) {
      const int64_t n = work / directions;
      const Item item = b.items[n];
      if (!item.open) continue;
      const View<Real> u(b, n, item);
      if (work % directions == 0)
        forward(block, u, scratch);
      else
        backward(block, u, scratch);
    }
  }

 private:
  template <class Block>
  CTC_DEVICE void forward(Block& block, const View<Real>& u, const ChainScratch<Real>& s) const {
    Pair<Real>*now = s.rows[0], *next = s.rows[1];
    const int threads = block.threads();
    typename Block::template Private<Position> mine(block);  // of the thread's first position
    block.each([&](int thread) {
      mine(thread) = u.position(thread);
      for (int64_t j = thread; j <= u.L; j += threads) now[j] = u.start(j);
    });
    Emissions<Block, Real> emissions(block, u, s.emissions, true);
    int64_t seam = 1, until_seam = b.segment;
    for (int64_t t = 0; t < u.T; ++t) {
      const Extended<Real>* p = emissions.row(t);
      const Extended<Real> enter = u.enter(t);
      const bool keep = b.gradient && --until_seam == 0 && t + 1 < u.T;
      Pair<Real>* kept = keep ? b.alpha_seams + u.seam(seam) : nullptr;
      block.each([&](int thread) {
        for (int64_t j = thread; j <= u.L; j += threads) {
          const Position own = j == thread ? mine(thread) : u.position(j);
          const Pair<Real> after = forward_step(now, j, u.L, own.skip, p[0], p[own.place], enter);
          next[j] = after;
          if (kept) kept[j] = after;
        }
      });
      if (keep) ++seam, until_seam = b.segment;
      Pair<Real>* swapped = now;
      now = next, next = swapped;
    }
    block.each([&](int thread) {
      if (thread != 0) return;
      Extended<Real> z = now[u.L].b;
      if (u.L > 0) z = plus(z, now[u.L - 1].a);
      z = normalised(z);
      b.totals[u.n] = z;
      b.items[u.n].loss = -logarithm(z);
    });
  }

  template <class Block>
  CTC_DEVICE void backward(Block& block, const View<Real>& u, const ChainScratch<Real>& s) const {
    Pair<Real>*now = s.rows[0], *next = s.rows[1];
    const int threads = block.threads();
    typename Block::template Private<Position> mine(block);  // of the thread's first position
    block.each([&](int thread) {
      mine(thread) = u.position(thread);
      for (int64_t j = thread; j <= u.L; j += threads) now[j] = u.end(j);
    });
    Emissions<Block, Real> emissions(block, u, s.emissions, false);
    int64_t seam = (u.T - 1) / b.segment - 1;  // the last frame of this segment is still to come
    for (int64_t t = u.T - 1; t > 0; --t) {
      const Extended<Real>* p = emissions.row(t);
      const Extended<Real> enter = u.enter(t);
      const bool keep = t == (seam + 1) * b.segment;
      Pair<Real>* kept = keep ? b.beta_seams + u.seam(seam) : nullptr;
      block.each([&](int thread) {
        for (int64_t j = thread; j <= u.L; j += threads) {
          const Position own = j == thread ? mine(thread) : u.position(j);
          const Pair<Real> before = backward_step(now, j, u.L, own.next_skip, p[0], p[own.place],
                                                  p[own.next_place], enter);
          next[j] = before;
          if (kept) kept[j] = before;
        }
      });
      if (keep) --seam;
      Pair<Real>* swapped = now;
      now = next, next = swapped;
    }
  }
};

// ---- FillSegments --------------------------------------------------------------------------------

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
      const Item item = b.items[n];
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
  CTC_DEVICE void write(Block& block, const View<Real>& u, const Segment& s, const Item& item,
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

// ---- Finish --------------------------------------------------------------------------------------

template <class Real>
struct Finish {
  static constexpr int kThreads = 256;
  Batch<Real> b;

  template <class Block>
  CTC_DEVICE void operator()(Block& block) const {
    typename Block::template Private<double> sum(block);
    block.alone([&](int thread) {
      sum(thread) = 0;
      for (int64_t n = thread; n < b.batch; n += block.threads()) {
        const Item& item = b.items[n];
        const double loss = b.zero_infinity && item.loss == kInfinity ? 0 : item.loss;
        sum(thread) += loss * item.weight;
        if (b.losses) b.losses[n] = static_cast<Real>(loss);
        if (b.arithmetic) b.arithmetic[n] = 2;  // a number with an exponent of its own
      }
    });
    const double reduced = block.sum(sum);
    block.each([&](int thread) {
      if (thread == 0 && b.reduced) *b.reduced = static_cast<Real>(reduced);
    });
  }
};

// The gradient times the derivatives that come in, (N) or a single one for all: where those are 1, as they
// mostly are, nothing is touched.
template <class Element, class Real>
struct Scale {
  static constexpr int kThreads = 128;
  void* gradient;
  const void* factors;  // of Real
  bool single;
  int64_t frames, batch, classes, frame_stride, batch_stride;

  template <class Block>
  CTC_DEVICE void operator()(Block& block) const {
    const Real* factor = static_cast<const Real*>(factors);
    if (single && *factor == 1) return;
    block.alone([&](int thread) {
      for (int64_t row = block.index(); row < frames * batch; row += block.count()) {
        const int64_t t = row / batch, n = row % batch;
        const Real f = factor[single ? 0 : n];
        if (f == 1) continue;
        Element* g = static_cast<Element*>(gradient) + t * frame_stride + n * batch_stride;
        for (int64_t c = thread; c < classes; c += block.threads())
          from_real(to_real(g[c]) * f, g[c]);
      }
    });
  }
};

// ---- all of it -----------------------------------------------------------------------------------

// Launches the kernels in their order. `launch(kernel, Launch)` returns false on an error.
template <class Element, class Real, class Launcher>
bool run_kernels(const Plan<Real>& plan, const Launcher& launch) {
  const Batch<Real>& b = plan.batch;
  if (b.batch > 0) {
    if (!launch(FindLabels<Real>{b}, plan.labels)) return false;
    if (b.frames > 0) {
      if (!launch(NormaliseRows<Element, Real>{b, plan.team}, plan.rows)) return false;
      if (!launch(RunChains<Real>{b}, plan.chains)) return false;
      if (b.gradient && !launch(FillSegments<Real>{b}, plan.segments)) return false;
    }
  }
  return launch(Finish<Real>{b}, plan.finish);
}

template <class Launcher>
bool run_kernels(int32_t type, const Plan<float>& plan, const Launcher& launch) {
  if (type == CTCSPEECH_FLOAT16) return run_kernels<Half, float>(plan, launch);
  if (type == CTCSPEECH_BFLOAT16) return run_kernels<BFloat16, float>(plan, launch);
  return run_kernels<float, float>(plan, launch);
}
template <class Launcher>
bool run_kernels(int32_t, const Plan<double>& plan, const Launcher& launch) {
  return run_kernels<double, double>(plan, launch);
}

template <class Launcher>
bool scale(const ctcspeech_ctc_input& in, const ctcspeech_ctc_output& out, const void* factors,
           bool single, const Launcher& launch) {
  const Launch shape{std::min<int64_t>(in.frames * in.batch, 1 << 14), 128, 0};
  if (shape.blocks == 0) return true;
  const auto with = [&](auto kernel) {
    kernel = {out.gradient, factors, single, in.frames, in.batch, in.classes,
              out.gradient_frame_stride, out.gradient_batch_stride};
    return launch(kernel, shape);
  };
  switch (in.type) {
    case CTCSPEECH_FLOAT64: return with(Scale<double, double>{});
    case CTCSPEECH_FLOAT16: return with(Scale<Half, float>{});
    case CTCSPEECH_BFLOAT16: return with(Scale<BFloat16, float>{});
    default: return with(Scale<float, float>{});
  }
}

}  // namespace
}  // namespace ctcspeech
