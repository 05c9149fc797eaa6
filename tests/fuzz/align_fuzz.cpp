// Random problems through the forced alignment and the GRU of every instruction set here, on several
// threads: no access outside the arrays given, nothing undefined; the alignment finds a path as probable
// as the best one by a plain recursion in double, and all instruction sets agree.
//
//   ./align_fuzz SECONDS SEED
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "align/align.h"
#include "base/cpu.h"
#include "base/parallel.h"
#include "gru/gru.h"

using namespace ctcspeech;

namespace {

std::mt19937_64 random_bits;
constexpr double kNone = -std::numeric_limits<double>::infinity();

int64_t between(int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(random_bits);
}
bool chance(int percent) { return between(1, 100) <= percent; }
double normal(double scale) { return std::normal_distribution<double>(0, scale)(random_bits); }

// Exactly as long as it must be, so that the sanitizer sees every step outside.
template <class T>
std::unique_ptr<T[]> array(int64_t n) {
  return std::unique_ptr<T[]>(new T[static_cast<size_t>(n)]());
}

[[noreturn]] void fail(const char* what, int64_t seed) {
  std::fprintf(stderr, "%s, case %lld\n", what, static_cast<long long>(seed));
  std::exit(1);
}

std::vector<Isa> isas() {
  std::vector<Isa> here;
  for (Isa isa : {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512, Isa::kNeon})
    if (isa_available(isa)) here.push_back(isa);
  return here;
}

// The best path's log-probability by the recursion of align.h, without a band. NaN: emissions hold it.
template <class S>
double best_score(const AlignProblem<S>& p) {
  std::vector<double> B(p.num_labels + 1, kNone), A(p.num_labels + 1, kNone);
  for (int64_t t = 0; t < p.frames; ++t) {
    const S* x = p.emissions + t * p.frame_stride;
    double high = kNone, sum = 0;
    for (int64_t c = 0; c < p.classes; ++c) {
      if (std::isnan(x[c]) || x[c] == std::numeric_limits<S>::infinity()) return NAN;
      high = std::fmax(high, static_cast<double>(x[c]));
    }
    if (high == kNone) return kNone;
    for (int64_t c = 0; c < p.classes; ++c) sum += std::exp(static_cast<double>(x[c]) - high);
    const auto log_prob = [&](int64_t c) {
      return static_cast<double>(x[c]) - high - std::log(sum);
    };
    std::vector<double> newB(B.size(), kNone), newA(A.size(), kNone);
    for (int64_t j = 0; j <= p.num_labels; ++j) {
      const double before = t > 0 && j > 0 ? A[j - 1] : kNone;
      const double stay = t == 0 ? (j == 0 ? 0 : kNone) : B[j];
      newB[j] = log_prob(p.blank) + std::fmax(stay, before);
      if (j == p.num_labels) continue;
      const bool wild = p.labels[j] == kWildcard;
      const bool skip = j > 0 && (wild || p.labels[j] != p.labels[j - 1]);
      const double emission = wild ? static_cast<double>(p.wildcard_score) - std::log(sum)
                                   : log_prob(p.labels[j]);
      double from = std::fmax(t > 0 ? A[j] : kNone, stay);
      if (skip) from = std::fmax(from, before);
      newA[j] = emission + from;
    }
    B = newB, A = newA;
  }
  if (p.frames == 0) return p.num_labels == 0 ? 0 : kNone;
  return std::fmax(B[p.num_labels], p.num_labels > 0 ? A[p.num_labels - 1] : kNone);
}

template <class S>
void align_case(int64_t seed) {
  const int64_t T = between(0, 70), C = chance(70) ? between(2, 40) : between(2, 200);
  const int64_t L = between(0, chance(80) ? 20 : 80), gap = chance(30) ? between(0, 3) : 0;
  auto x = array<S>(T > 0 ? (T - 1) * (C + gap) + C : 0);
  const double scale = chance(80) ? 3 : 300;
  for (int64_t t = 0; t < T; ++t)
    for (int64_t c = 0; c < C; ++c) x[t * (C + gap) + c] = static_cast<S>(normal(scale));
  const S specials[] = {std::numeric_limits<S>::quiet_NaN(), std::numeric_limits<S>::infinity(),
                        -std::numeric_limits<S>::infinity(), S(1e30), S(-1e30)};
  if (T > 0 && chance(20)) x[between(0, T - 1) * (C + gap) + between(0, C - 1)] = specials[between(0, 4)];
  const int64_t blank = between(0, C - 1);
  auto labels = array<int64_t>(L);
  for (int64_t j = 0; j < L; ++j) {
    do labels[j] = between(chance(10) ? -1 : 0, C - 1);
    while (labels[j] == blank);
  }
  const AlignProblem<S> problem{x.get(), C + gap, T, C, labels.get(), L, blank,
                                chance(70) ? -1 : between(1, 10), static_cast<S>(-1)};
  const double wanted = best_score(problem);
  const std::vector<Isa> here = isas();
  std::vector<AlignStatus> status(here.size());
  std::vector<double> scores(here.size());
  std::vector<std::unique_ptr<int32_t[]>> states;
  std::vector<std::unique_ptr<S[]>> log_probs;
  for (size_t i = 0; i < here.size(); ++i) states.push_back(array<int32_t>(T)), log_probs.push_back(array<S>(T));
  parallel_for(static_cast<int64_t>(here.size()), 3, [&](int64_t i, int) {
    status[i] = align(problem, states[i].get(), log_probs[i].get(), &scores[i], static_cast<int>(here[i]));
  });
  for (size_t i = 0; i < here.size(); ++i) {
    if (status[i] != status[0]) fail("instruction sets differ in status", seed);
    if (std::isnan(wanted) && status[i] == AlignStatus::kOk) fail("NaN or +inf went unnoticed", seed);
    if (status[i] != AlignStatus::kOk) {
      if (wanted > -1e6 && problem.band < 0) fail("a path was not found", seed);
      continue;
    }
    const double tolerance = 1e-4 * static_cast<double>(T + 1) + 1e-5 * std::fabs(wanted);
    if (scores[i] > wanted + tolerance) fail("more probable than the best path", seed);
    if (problem.band < 0 && scores[i] < wanted - tolerance) fail("not the best path", seed);
    for (int64_t t = 0; t < T; ++t)
      if (states[i][t] < 0 || states[i][t] > 2 * L) fail("a state that is none", seed);
  }
}

void gru_case(int64_t seed) {
  const int64_t steps = between(0, 12), H = between(1, 40), D = between(1, 2);
  std::vector<int64_t> sizes, offsets;
  int64_t frames = 0, size = between(1, 20);
  for (int64_t t = 0; t < steps; ++t) {
    sizes.push_back(size), offsets.push_back(frames);
    frames += size;
    size = between(1, size);
  }
  const GruShape shape{sizes.data(), offsets.data(), steps, D, H};
  const auto filled = [](int64_t n, double scale) {
    auto a = array<float>(n);
    for (int64_t i = 0; i < n; ++i) a[i] = static_cast<float>(normal(scale));
    return a;
  };
  const auto start = filled(frames * D * 3 * H, 1), weight = filled(D * 3 * H * H, 0.3);
  const auto bias = filled(D * H, 1), gradient = filled(frames * D * H, 1);
  std::vector<float> first;
  for (const Isa isa : isas()) {
    auto gates = array<float>(frames * D * 3 * H), by_gates = array<float>(frames * D * 3 * H);
    std::copy(start.get(), start.get() + frames * D * 3 * H, gates.get());
    auto hidden = array<float>(frames * D * H), candidate = array<float>(frames * D * H);
    auto by_candidate = array<float>(frames * D * H), before = array<float>(frames * D * H);
    const int threads = static_cast<int>(between(1, 4));
    gru_forward(shape, gates.get(), weight.get(), bias.get(), hidden.get(), candidate.get(), threads,
                static_cast<int>(isa));
    gru_backward(shape, gates.get(), weight.get(), hidden.get(), candidate.get(), gradient.get(),
                 by_gates.get(), by_candidate.get(), before.get(), threads, static_cast<int>(isa));
    std::vector<float> all(hidden.get(), hidden.get() + frames * D * H);
    all.insert(all.end(), by_gates.get(), by_gates.get() + frames * D * 3 * H);
    if (first.empty()) first = all;
    for (size_t i = 0; i < all.size(); ++i)
      if (!(std::fabs(all[i] - first[i]) <= 2e-3f * (1 + std::fabs(first[i]))))
        fail("instruction sets differ in the GRU", seed);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 1;
  const int64_t seed = argc > 2 ? std::atoll(argv[2]) : 0;
  const auto start = std::chrono::steady_clock::now();
  int64_t cases = 0;
  while (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() < seconds) {
    random_bits.seed(static_cast<uint64_t>(seed + cases));
    align_case<float>(seed + cases);
    align_case<double>(seed + cases);
    if (cases % 4 == 0) gru_case(seed + cases);
    ++cases;
  }
  std::printf("%lld cases\n", static_cast<long long>(cases));
}
