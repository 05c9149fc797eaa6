// The kernels of the GPU, run on the host as if by a GPU of one thread: between two barriers each thread
// of a block has its turn, in an order that a test chooses. If threads disturbed one another between
// barriers, the order would show in the result. Shared memory starts out as NaN.
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "ctc/cuda/kernels.h"
#include "ctc/cuda/cuda_loss.h"

namespace ctcspeech {
namespace {

class OnHostBlock {
 public:
  OnHostBlock(int64_t index, int64_t count, char* shared, const std::vector<int>& order)
      : index_(index), count_(count), shared_(shared), order_(order) {}

  int64_t index() const { return index_; }
  int64_t count() const { return count_; }
  int threads() const { return static_cast<int>(order_.size()); }
  char* shared() const { return shared_; }

  template <class F>
  void each(F f) const {
    for (const int thread : order_) f(thread);
  }
  template <class F>
  void alone(F f) const {
    each(f);
  }

  template <class T>
  class Private {
   public:
    explicit Private(const OnHostBlock& block) : values_(block.order_.size()) {}
    T& operator()(int thread) { return values_[static_cast<size_t>(thread)]; }

   private:
    std::vector<T> values_;
  };

  double sum(Private<double>& x) const {
    team_sum(threads(), x);
    return x(0);
  }
  void team_sum(int team, Private<double>& x) const {
    combine(team, x, [](double a, double b) { return a + b; });
  }
  template <class Real>
  void team_max(int team, Private<Real>& x) const {
    combine(team, x, [](Real a, Real b) { return a > b ? a : b; });
  }

 private:
  template <class T, class F>
  void combine(int team, Private<T>& x, F f) const {
    for (int first = 0; first < threads(); first += team) {
      T all = x(first);
      for (int i = first + 1; i < first + team; ++i) all = f(all, x(i));
      for (int i = first; i < first + team; ++i) x(i) = all;
    }
  }

  int64_t index_, count_;
  char* shared_;
  const std::vector<int>& order_;
};

template <class Int>
std::vector<Int> ordered(Int count, int order) {
  std::vector<Int> all(static_cast<size_t>(count));
  std::iota(all.begin(), all.end(), Int{0});
  if (order == 1) std::reverse(all.begin(), all.end());
  if (order > 1) std::shuffle(all.begin(), all.end(), std::mt19937(static_cast<unsigned>(order)));
  return all;
}

struct OnHostLauncher {
  int order;

  template <class Kernel>
  bool operator()(const Kernel& kernel, const Launch& launch) const {
    const auto threads = ordered<int>(launch.threads, order);
    std::vector<Pair<float>> shared((launch.shared + sizeof(Pair<float>) - 1) / sizeof(Pair<float>));
    char* memory = reinterpret_cast<char*>(shared.data());
    for (const int64_t index : ordered<int64_t>(launch.blocks, order)) {
      if (!shared.empty()) std::memset(memory, 0xff, launch.shared);
      OnHostBlock block(index, launch.blocks, memory, threads);
      kernel(block);
    }
    return true;
  }
};

template <class Real>
size_t workspace_of(const ctcspeech_ctc_input& in, const ctcspeech_ctc_output& out,
                    const ctcspeech_ctc_where& where, const OnHostOptions& options) {
  return Plan<Real>(in, out, where.longest_target, options.shared_limit, nullptr).workspace_bytes;
}

template <class Real>
ctcspeech_status loss_of(const ctcspeech_ctc_input& in, const ctcspeech_ctc_output& out,
                         const ctcspeech_ctc_where& where, const OnHostOptions& options) {
  const Plan<Real> plan(in, out, where.longest_target, options.shared_limit, where.workspace);
  if (where.workspace_bytes < plan.workspace_bytes) return CTCSPEECH_SMALL_WORKSPACE;
  run_kernels(in.type, plan, OnHostLauncher{options.order});
  return CTCSPEECH_OK;
}

}  // namespace

size_t on_host_workspace(const ctcspeech_ctc_input& in, const ctcspeech_ctc_output& out,
                         const ctcspeech_ctc_where& where, const OnHostOptions& options) {
  return in.type == CTCSPEECH_FLOAT64 ? workspace_of<double>(in, out, where, options)
                                      : workspace_of<float>(in, out, where, options);
}

ctcspeech_status on_host_loss(const ctcspeech_ctc_input& in, const ctcspeech_ctc_output& out,
                              const ctcspeech_ctc_where& where, const OnHostOptions& options) {
  return in.type == CTCSPEECH_FLOAT64 ? loss_of<double>(in, out, where, options)
                                      : loss_of<float>(in, out, where, options);
}

ctcspeech_status on_host_scale(const ctcspeech_ctc_input& in, const ctcspeech_ctc_output& out,
                               const void* factors, bool single, const OnHostOptions& options) {
  scale(in, out, factors, single, OnHostLauncher{options.order});
  return CTCSPEECH_OK;
}

}  // namespace ctcspeech
