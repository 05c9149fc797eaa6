// The kernels of ctc/cuda/lattice.h in their order, and the last of them: losses and their reduction.
#pragma once

#include "ctc/cuda/alpha_beta_chains.h"
#include "ctc/cuda/find_labels.h"
#include "ctc/cuda/gradient_segments.h"
#include "ctc/cuda/lattice.h"
#include "ctc/cuda/softmax_rows.h"

namespace ctcspeech {
namespace {

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
        const UtteranceState& item = b.states[n];
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
