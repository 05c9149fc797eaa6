// Models estimated from random bytes, in so little memory that everything goes to disk: each must be
// refused or be read again and sum to one. Built with sanitizers by tests/test_fuzz.py:
//
//   g++ -std=c++17 -g -O1 -fsanitize=address,undefined -Icsrc tests/fuzz/estimate_fuzz.cpp csrc/ngram/*.cpp
//       csrc/ngram/estimate/*.cpp
//   ./a.out SECONDS [SEED]
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "ngram/ngram.h"
#include "ngram/estimate/estimate.h"

using namespace ctcspeech::ngram;
using Random = std::mt19937_64;

static std::string random_text(Random& random) {
  static const char* const kPieces[] = {" ", "\t", "\r", "\n\n", "<s>", "</s>", "<unk>", "\xFF", "#"};
  const int words = 1 + static_cast<int>(random() % 60), odd = random() % 4 == 0 ? 10 : 0;
  const size_t lines = random() % 400;
  std::string text;
  for (size_t i = 0; i < lines; ++i) {
    for (size_t k = random() % 12; k > 0; --k) {
      // Small numbers are drawn more often, as natural words are.
      const double x = static_cast<double>(random() >> 11) * 0x1p-53;
      text += "w" + std::to_string(static_cast<int>(words * x * x * x)) + " ";
      if (static_cast<int>(random() % 100) < odd) text += kPieces[random() % 9];
    }
    if (random() % 50 == 0) text += '\0';
    text += '\n';
  }
  if (random() % 2 && !text.empty()) text.pop_back();
  return text;
}

static uint64_t seed;

static void run_case(Random& random, const std::string& folder) {
  EstimateOptions options;
  options.order = 1 + static_cast<int>(random() % 5);
  for (int n = 0; n < options.order; ++n)
    options.prune.push_back(n == 0 ? 0 : options.prune.back() + random() % 2);
  options.has_fallback = random() % 3 > 0;
  options.skip_symbols = random() % 2;
  options.vocabulary_size = random() % 3 ? 0 : random() % 20;
  options.has_vocabulary = random() % 5 == 0;
  for (int i = 0; i < 20; ++i) options.vocabulary.push_back("w" + std::to_string(random() % 40));
  options.memory = size_t{1} << (6 + random() % 16);
  options.temp_folder = folder;
  Estimator estimator(options);
  const std::string text = random_text(random), path = folder + "/lm.arpa";
  for (size_t at = 0; at < text.size();) {
    const size_t count = std::min<size_t>(text.size() - at, 1 + random() % 3000);
    estimator.add_text(text.data() + at, count);
    at += count;
  }
  estimator.finish_text();
  estimator.adjust();
  estimator.normalize();
  estimator.write_arpa(path);
  const auto model = Model::load(path);
  State state = random() % 2 ? model->begin_state() : model->null_state(), next;
  for (int i = 0; i < 8; ++i) {
    double sum = 0;
    for (WordIndex w = 0; w < model->vocab_size(); ++w)
      if (w != model->bos()) sum += std::pow(10.0, model->score(state, w, next));
    if (std::fabs(sum - 1) > 1e-3) {
      std::fprintf(stderr, "seed %llu: the probabilities of order %d sum to %g\n",
                   static_cast<unsigned long long>(seed - 1), options.order, sum);
      std::abort();
    }
    model->score(state, static_cast<WordIndex>(random() % model->vocab_size()), next);
    state = next;
  }
}

int main(int count, char** arguments) {
  const double seconds = count > 1 ? std::atof(arguments[1]) : 10;
  seed = count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 0;
  char folder[] = "/tmp/estimate_fuzz_XXXXXX";
  if (mkdtemp(folder) == nullptr) return 1;
  const auto start = std::chrono::steady_clock::now();
  int64_t cases = 0, well = 0;
  for (; std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() < seconds;
       ++cases) {
    Random random(++seed);
    try {
      run_case(random, folder);
      ++well;
    } catch (const EstimateError&) {
    }
  }
  std::remove((std::string(folder) + "/lm.arpa").c_str());
  std::remove(folder);
  std::printf("%lld cases, %lld models\n", static_cast<long long>(cases),
              static_cast<long long>(well));
}
