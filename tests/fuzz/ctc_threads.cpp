// The GPU's kernels of the CTC loss with a real thread for each thread of a block, under the thread
// sanitizer: two accesses of one place without a barrier between them are reported, as racecheck would.
//
//   g++ -std=c++17 -O1 -g -fsanitize=thread -Icsrc tests/fuzz/ctc_threads.cpp csrc/ctc_serial.cpp -pthread
//   ./a.out SECONDS
#include <pthread.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "../../csrc/ctc_block_chains.h"
#include "../../csrc/ctc_cuda.h"

using namespace ctcspeech;

namespace {

struct Barrier {
  pthread_barrier_t barrier;
  explicit Barrier(int threads) { pthread_barrier_init(&barrier, nullptr, unsigned(threads)); }
  ~Barrier() { pthread_barrier_destroy(&barrier); }
  void wait() { pthread_barrier_wait(&barrier); }
};

// As CudaBlock: one of these for each thread.
class ThreadBlock {
 public:
  ThreadBlock(int64_t index, int64_t count, int thread, int threads, char* shared, double* exchange,
              Barrier& barrier)
      : index_(index), count_(count), thread_(thread), threads_(threads), shared_(shared),
        exchange_(exchange), barrier_(barrier) {}

  int64_t index() const { return index_; }
  int64_t count() const { return count_; }
  int threads() const { return threads_; }
  char* shared() const { return shared_; }
  template <class F>
  void each(F f) const {
    f(thread_);
    barrier_.wait();
  }
  template <class F>
  void alone(F f) const {
    f(thread_);
  }
  template <class T>
  class Private {
   public:
    explicit Private(const ThreadBlock&) {}
    T& operator()(int) { return value_; }

   private:
    T value_;
  };
  double sum(Private<double>& x) const {
    team_sum(threads_, x);
    return x(0);
  }
  void team_sum(int team, Private<double>& x) const {
    combine(team, x(0), [](double a, double b) { return a + b; });
  }
  template <class Real>
  void team_max(int team, Private<Real>& x) const {
    combine(team, x(0), [](Real a, Real b) { return a > b ? a : b; });
  }

 private:
  // A warp exchanges registers, which no other thread sees; the block's two barriers are real.
  template <class T, class F>
  void combine(int team, T& x, F f) const {
    exchange_[thread_] = static_cast<double>(x);
    barrier_.wait();
    const int first = thread_ / team * team;
    T all = static_cast<T>(exchange_[first]);
    for (int i = first + 1; i < first + team; ++i) all = f(all, static_cast<T>(exchange_[i]));
    barrier_.wait();
    x = all;
  }

  int64_t index_, count_;
  int thread_, threads_;
  char* shared_;
  double* exchange_;
  Barrier& barrier_;
};

struct ThreadLauncher {
  template <class Kernel>
  bool operator()(const Kernel& kernel, const Launch& launch) const {
    const auto count = static_cast<size_t>(launch.threads);
    std::vector<double> exchange(count);
    std::vector<Pair<float>> shared(launch.shared / sizeof(Pair<float>) + 1);
    Barrier barrier(launch.threads);
    std::vector<std::thread> threads;
    for (int thread = 0; thread < launch.threads; ++thread)
      threads.emplace_back([&, thread] {
        for (int64_t index = 0; index < launch.blocks; ++index) {
          ThreadBlock block(index, launch.blocks, thread, launch.threads,
                            reinterpret_cast<char*>(shared.data()), exchange.data(), barrier);
          kernel(block);
          barrier.wait();
        }
      });
    for (auto& thread : threads) thread.join();
    return true;
  }
};

std::mt19937 random_bits(1);

int64_t between(int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(random_bits);
}

struct Free {
  void operator()(void* p) const { std::free(p); }
};

// Loss and gradient with real threads are, bit for bit, those of one thread after the other.
template <class Real>
void run_case() {
  const int64_t T = between(1, 24), N = between(1, 3), L = between(0, 40);
  const int64_t C = between(0, 3) ? between(3, 70) : between(1025, 1100);
  std::vector<Real> logits(static_cast<size_t>(T * N * C));
  std::vector<int64_t> targets(static_cast<size_t>(N * L)), frames, labels;
  std::normal_distribution<double> normal;
  for (auto& x : logits) x = static_cast<Real>(normal(random_bits));
  for (auto& y : targets) y = between(1, std::min<int64_t>(C - 1, 6));
  const bool wild = between(0, 3) == 0 && L > 0;
  if (wild) targets[0] = CTCSPEECH_WILDCARD;
  for (int64_t n = 0; n < N; ++n) {
    frames.push_back(between(0, T));
    labels.push_back(between(0, L));
  }
  if (between(0, 4) == 0) frames[0] = T + 1;  // wrong
  ctcspeech_ctc_input in{};
  in.logits = logits.data();
  in.type = sizeof(Real) == 8 ? CTCSPEECH_FLOAT64 : CTCSPEECH_FLOAT32;
  in.index_type = CTCSPEECH_INT64;
  in.frames = T, in.batch = N, in.classes = C;
  in.frame_stride = N * C, in.batch_stride = C;
  in.targets = targets.data();
  in.target_stride = in.max_target_length = L;
  in.input_lengths = frames.data();
  in.target_lengths = labels.data();
  in.allow_wildcard = wild;
  in.delay_penalty = between(0, 1) ? 0 : 0.01;
  std::vector<Real> losses(static_cast<size_t>(N)), gradient(logits.size());
  ctcspeech_ctc_output out{};
  out.losses = losses.data();
  out.gradient = gradient.data();
  out.gradient_frame_stride = N * C, out.gradient_batch_stride = C;
  out.reduction = CTCSPEECH_MEAN;

  const SerialOptions options{0, static_cast<size_t>(between(0, 1) ? 100000 : 1000)};
  ctcspeech_ctc_where where{};
  where.workspace_bytes = serial_workspace(in, out, where, options);
  const std::unique_ptr<void, Free> memory(
      std::aligned_alloc(64, (where.workspace_bytes + 127) / 64 * 64));
  where.workspace = memory.get();
  serial_loss(in, out, where, options);
  const auto wanted_losses = losses, wanted = gradient;
  std::memset(memory.get(), 0xff, where.workspace_bytes);
  const Plan<Real> plan(in, out, 0, options.shared_limit, memory.get());
  run_kernels(in.type, plan, ThreadLauncher{});
  if (std::memcmp(losses.data(), wanted_losses.data(), losses.size() * sizeof(Real)) ||
      std::memcmp(gradient.data(), wanted.data(), gradient.size() * sizeof(Real))) {
    std::fprintf(stderr, "the threads gave other bits\n");
    std::abort();
  }
}

}  // namespace

int main(int count, char** arguments) {
  const double seconds = count > 1 ? std::atof(arguments[1]) : 10;
  const auto start = std::chrono::steady_clock::now();
  int cases = 0;
  do {
    if (between(0, 3))
      run_case<float>();
    else
      run_case<double>();
    ++cases;
  } while (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() < seconds);
  std::printf("%d cases\n", cases);
}
