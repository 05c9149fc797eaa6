// csrc/ctc/cuda/cuda_loss.cu itself on the host, with a real thread for each thread of a block
// (cuda_on_host), under the thread sanitizer: two accesses of one place without a barrier between them are reported, as racecheck
// would. The results are compared with those of one thread after the other.
//
//   g++ -std=c++17 -O1 -g -fsanitize=thread -DCTCSPEECH_CUDA=1 -Itests/fuzz/cuda_on_host -Icsrc
//       tests/fuzz/ctc_threads.cpp csrc/ctc/cuda/on_host.cpp -pthread -o ctc_threads
//   ./ctc_threads SECONDS
#include "../../csrc/ctc/cuda/cuda_loss.cu"

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>

using namespace ctcspeech;

namespace {

std::mt19937 random_bits(1);

int64_t between(int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(random_bits);
}

struct Free {
  void operator()(void* p) const { std::free(p); }
};

std::unique_ptr<void, Free> allocate(ctcspeech_ctc_where& where) {
  void* memory = std::aligned_alloc(64, (where.workspace_bytes + 127) / 64 * 64);
  std::memset(memory, 0xff, where.workspace_bytes);
  where.workspace = memory;
  return std::unique_ptr<void, Free>(memory);
}

void require(bool truth, const char* what) {
  if (truth) return;
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

template <class Real>
void require_close(const std::vector<Real>& got, const std::vector<Real>& wanted, const char* what) {
  const double allowed = sizeof(Real) == 4 ? 1e-6 : 1e-14;
  for (size_t i = 0; i < got.size(); ++i) {
    const double a = got[i], b = wanted[i];
    const bool same = std::isnan(b) ? std::isnan(a)
                      : std::isinf(b) ? a == b
                                      : std::fabs(a - b) <= allowed * (1 + std::fabs(b));
    require(same, what);
  }
}

// Sums over threads are taken in another order than in ctc/cuda/on_host.cpp, so results differ in a last bit.
template <class Real>
void run_case() {
  const int64_t T = between(1, 16), N = between(1, 2), L = between(0, 40);
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

  fake_cuda::shared_optin = between(0, 1) ? 100 * 1024 : between(0, 1) ? 64 * 1024 : 2048;
  const OnHostOptions options{0, 100000};
  ctcspeech_ctc_where where{};
  where.workspace_bytes = on_host_workspace(in, out, where, options);
  const auto memory = allocate(where);
  on_host_loss(in, out, where, options);
  const auto wanted_losses = losses, wanted = gradient;

  std::vector<Real> again;
  for (int i = 0; i < 2; ++i) {  // the same bits each time
    where.device_index = i;
    where.workspace_bytes = cuda_workspace(in, out, where);
    const auto own = allocate(where);
    std::fill(gradient.begin(), gradient.end(), Real(-1));
    require(cuda_loss(in, out, where) == CTCSPEECH_OK, cuda_error());
    require(fake_cuda::device == 0, "the device is another than before");
    require_close(losses, wanted_losses, "loss");
    require_close(gradient, wanted, "gradient");
    if (i > 0)
      require(!std::memcmp(gradient.data(), again.data(), again.size() * sizeof(Real)), "other bits");
    again = gradient;
    where.workspace_bytes -= 64;
    require(cuda_loss(in, out, where) == CTCSPEECH_SMALL_WORKSPACE, "a small workspace was taken");
  }
  std::vector<Real> factors(static_cast<size_t>(N), Real(2));
  require(cuda_scale(in, out, where, factors.data(), between(0, 1)) == CTCSPEECH_OK, cuda_error());
  for (auto& x : again) x *= 2;
  require_close(gradient, again, "scaled gradient");
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
