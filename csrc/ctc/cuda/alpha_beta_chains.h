// The recursion along an utterance: alpha forwards and beta backwards, kept at the seams of segments.
#pragma once

#include "ctc/cuda/lattice.h"

namespace ctcspeech {
namespace {

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
      const UtteranceState item = b.states[n];
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
      b.states[u.n].loss = -logarithm(z);
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

}  // namespace
}  // namespace ctcspeech
