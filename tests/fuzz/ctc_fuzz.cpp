// Random problems, right and wrong ones, through the C interface of the CTC loss: no crash, no access
// outside the arrays given, nothing undefined, and the fast path and the GPU's kernels run on the host
// agree with the log-space reference.
//
//   g++ -std=c++17 -O1 -g -fsanitize=address,undefined -Icsrc tests/fuzz/ctc_fuzz.cpp csrc/ctc/ctc.cpp
//       csrc/ctc/reference.cpp csrc/ctc/cuda/on_host.cpp csrc/ctc/cpu/fast_loss_baseline.cpp csrc/base/cpu.cpp
//       (and fast_loss_avx2.cpp, fast_loss_avx512.cpp with their flags) -pthread -o ctc_fuzz
//   ./ctc_fuzz SECONDS SEED [THREADS]
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "../../csrc/base/cpu.h"
#include "../../csrc/ctc/ctc.h"
#include "../../csrc/ctc/cuda/cuda_loss.h"

namespace {

std::mt19937_64 random_bits;

int64_t between(int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(random_bits);
}
bool chance(int percent) { return between(1, 100) <= percent; }

// An array in memory of its own, exactly as long as it must be, so that the sanitizer sees every step
// outside.
template <class Item>
struct Array {
  std::unique_ptr<Item[]> items;
  int64_t size;
  explicit Array(int64_t n) : items(new Item[static_cast<size_t>(n)]()), size(n) {}
  Item* get() { return items.get(); }
  Item& operator[](int64_t i) { return items[static_cast<size_t>(i)]; }
};

double special(double x) {
  switch (between(0, 400)) {
    case 0: return -INFINITY;
    case 1: return INFINITY;
    case 2: return NAN;
    case 3: return 1e38;
    case 4: return -3e38;
    case 5: return 0;
    default: return x;
  }
}

template <class Real>
struct Case {
  int64_t T = between(0, 60), N = between(0, 5), C = chance(80) ? between(2, 40) : between(2, 300);
  int64_t L = chance(80) ? between(0, 30) : between(0, 150);
  bool concatenated = chance(30), batch_first = chance(30), wild = chance(15);
  int64_t gap = chance(30) ? between(0, 3) : 0;  // between rows
  int64_t blank = between(0, C - 1);
  Array<int64_t> input_lengths{N}, target_lengths{N};
  std::unique_ptr<Array<int64_t>> targets;
  Array<Real> logits{std::max<int64_t>(0, T * N * (C + gap) - gap)};
  ctcspeech_ctc_input in{};

  Case() {
    int64_t total = 0;
    for (int64_t n = 0; n < N; ++n) {
      input_lengths[n] = chance(60) ? T : between(0, T);
      target_lengths[n] = chance(60) ? L : between(0, L);
      total += target_lengths[n];
    }
    targets = std::make_unique<Array<int64_t>>(concatenated ? total : N * L);
    const int64_t few = chance(30) ? std::min<int64_t>(C, 3) : C;
    for (int64_t i = 0; i < targets->size; ++i) {
      int64_t label = between(0, few - 1);
      if (label == blank) label = (label + 1) % C;
      (*targets)[i] = wild && chance(10) ? CTCSPEECH_WILDCARD : label;
    }
    const double scale = std::pow(10.0, static_cast<double>(between(-3, 3)));
    const bool specials = chance(20);
    std::normal_distribution<double> normal;
    for (int64_t i = 0; i < logits.size; ++i) {
      const double x = normal(random_bits) * scale;
      logits[i] = static_cast<Real>(specials ? special(x) : x);
    }
    in.logits = logits.get();
    in.type = sizeof(Real) == 4 ? CTCSPEECH_FLOAT32 : CTCSPEECH_FLOAT64;
    in.index_type = CTCSPEECH_INT64;
    in.frames = T;
    in.batch = N;
    in.classes = C;
    in.frame_stride = batch_first ? C + gap : N * (C + gap);
    in.batch_stride = batch_first ? T * (C + gap) : C + gap;
    in.targets = targets->get();
    in.target_stride = concatenated ? CTCSPEECH_CONCATENATED : L;
    in.max_target_length = concatenated ? total : L;
    in.input_lengths = input_lengths.get();
    in.target_lengths = target_lengths.get();
    in.blank = blank;
    in.allow_wildcard = wild;
    in.wildcard_penalty = chance(50) ? 0 : 2.5;
    in.delay_penalty = chance(80) ? 0 : 0.01 * static_cast<double>(between(-20, 20));
  }

  // The exponents of ctc/cuda/number.h hold so much, and no more.
  bool beyond_exponents() {
    for (int64_t i = 0; i < logits.size; ++i)
      if (std::isfinite(logits[i]) && std::fabs(logits[i]) > (sizeof(Real) == 4 ? 1e6 : 1e12))
        return true;
    return false;
  }

  // Makes one thing wrong, as a caller might. True: the core must refuse it.
  bool spoil() {
    switch (between(0, 6)) {
      case 0: in.blank = chance(50) ? -1 : C; return true;
      case 1: if (N == 0) return false; input_lengths[between(0, N - 1)] = T + 1; return true;
      case 2: if (N == 0) return false; input_lengths[between(0, N - 1)] = -1; return true;
      case 3: if (N == 0) return false; target_lengths[between(0, N - 1)] = -5; return true;
      case 4:
        if (N == 0) return false;
        target_lengths[N - 1] = INT64_MAX - between(0, 3);
        return true;
      case 5: in.type = 77; return true;
      default: in.classes = 0; return true;
    }
  }
};

void require(bool truth, const char* what, uint64_t seed) {
  if (truth) return;
  std::fprintf(stderr, "seed %llu: %s\n", static_cast<unsigned long long>(seed), what);
  std::abort();
}

template <class Real>
void require_same(Case<Real>& c, Array<Real>& losses, Array<Real>& wanted, Array<Real>* gradient,
                  Array<Real>* wanted_gradient, uint64_t seed) {
  for (int64_t n = 0; n < c.N; ++n) {
    const double a = losses[n], b = wanted[n];
    const bool same = std::isnan(b) ? std::isnan(a)
                      : std::isinf(b) ? a == b
                                      : std::fabs(a - b) <= 2e-6 * std::fabs(b) + 1e-4;
    if (!same) std::fprintf(stderr, "utterance %ld of T %ld C %ld L %ld: %.9g, not %.9g\n",
                            static_cast<long>(n), static_cast<long>(c.T), static_cast<long>(c.C),
                            static_cast<long>(c.L), a, b);
    require(same, "loss", seed);
  }
  for (int64_t i = 0; gradient && i < gradient->size; ++i) {
    const double a = (*gradient)[i], b = (*wanted_gradient)[i];
    if (std::fabs(wanted[i / c.C % c.N]) > 1e9) continue;  // beyond what float64 logarithms resolve
    const bool same = std::isnan(b) ? std::isnan(a) : std::fabs(a - b) <= 1e-5;
    if (!same) std::fprintf(stderr, "T %ld N %ld C %ld L %ld: %g, not %g\n", static_cast<long>(c.T),
                            static_cast<long>(c.N), static_cast<long>(c.C),
                            static_cast<long>(c.L), a, b);
    require(same, "gradient", seed);
  }
}

// The kernels take lengths and labels as they come: a wrong one must not lead outside the arrays.
template <class Real>
void run_kernels(Case<Real>& c, ctcspeech_ctc_output out, Array<Real>& losses,
                 Array<Real>* gradient) {
  const ctcspeech::OnHostOptions options{static_cast<int>(between(0, 5)),
                                         static_cast<size_t>(chance(50) ? 100000 : 1000)};
  ctcspeech_ctc_where where{};
  out.losses = losses.get();
  out.gradient = gradient ? gradient->get() : nullptr;
  where.workspace_bytes = ctcspeech::on_host_workspace(c.in, out, where, options);
  where.workspace = std::aligned_alloc(64, (where.workspace_bytes + 127) / 64 * 64);
  std::memset(where.workspace, 0xAB, where.workspace_bytes);
  ctcspeech::on_host_loss(c.in, out, where, options);
  std::free(where.workspace);
}

template <class Real>
void run_case(uint64_t seed, int threads) {
  Case<Real> c;
  const bool spoiled = chance(15) && c.spoil();
  const bool with_gradient = chance(70);
  ctcspeech_ctc_output out{};
  ctcspeech_ctc_where where{};
  where.threads = static_cast<int>(between(1, threads));
  where.isa = -1;
  for (int isa = 3; isa >= 0; --isa)
    if (ctcspeech::isa_available(static_cast<ctcspeech::Isa>(isa)) && chance(30)) where.isa = isa;
  where.arithmetic = chance(70) ? 0 : static_cast<int>(between(0, 3));
  Array<Real> losses(c.N), wanted(c.N), gradient(c.T * c.N * c.C), wanted_gradient(c.T * c.N * c.C);
  out.reduction = static_cast<int>(between(0, 2));
  out.zero_infinity = chance(20);
  out.gradient_frame_stride = c.N * c.C;
  out.gradient_batch_stride = c.C;
  const auto compute = [&](Array<Real>& loss, Array<Real>& grad) {
    out.losses = loss.get();
    out.gradient = with_gradient ? grad.get() : nullptr;
    where.workspace_bytes = ctcspeech_ctc_workspace(&c.in, &out, &where);
    const size_t bytes = (where.workspace_bytes + 63) / 64 * 64;
    where.workspace = std::aligned_alloc(64, bytes ? bytes : 64);
    std::memset(where.workspace, 0xAB, bytes);
    const auto status = ctcspeech_ctc_loss(&c.in, &out, &where);
    std::free(where.workspace);
    return status;
  };
  const auto status = compute(losses, gradient);
  require((status != CTCSPEECH_OK) == spoiled, "right status", seed);
  if (spoiled) {
    const bool sizes_are_right = status == CTCSPEECH_BAD_INPUT_LENGTH ||
                                 status == CTCSPEECH_BAD_TARGET_LENGTH ||
                                 status == CTCSPEECH_BAD_TARGET_SUM;
    if (sizes_are_right) run_kernels(c, out, losses, with_gradient ? &gradient : nullptr);
    return;
  }
  where.arithmetic = 3;
  where.threads = 1;
  require(compute(wanted, wanted_gradient) == CTCSPEECH_OK, "reference status", seed);
  auto* slope = with_gradient ? &gradient : nullptr;
  require_same(c, losses, wanted, slope, &wanted_gradient, seed);
  if (c.beyond_exponents()) return;
  run_kernels(c, out, losses, slope);
  require_same(c, losses, wanted, slope, &wanted_gradient, seed);
}

}  // namespace

int main(int count, char** arguments) {
  const double seconds = count > 1 ? std::atof(arguments[1]) : 10;
  uint64_t seed = count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 0;
  const int threads = count > 3 ? std::atoi(arguments[3]) : 3;
  const auto start = std::chrono::steady_clock::now();
  int64_t cases = 0;
  while (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() < seconds) {
    random_bits.seed(seed);
    if (chance(70))
      run_case<float>(seed, threads);
    else
      run_case<double>(seed, threads);
    ++seed, ++cases;
  }
  std::printf("%lld cases\n", static_cast<long long>(cases));
}
