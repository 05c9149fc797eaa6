// Time of one query, in random order: benchmarks/ngram.py compiles and runs this.
//
//   ngram_query TEXT COUNT name:model ...     name: ours..., and with -DWITH_KENLM kenlm-probing,
//                                             kenlm-trie, kenlm-trie-8bit
//
// COUNT positions of the text are drawn at random. The state before each and its word are laid out in
// that order beforehand, so that only the models' own memory is visited at random. The models take
// turns for 9 rounds. Prints for each: the sum of log10 and the seconds to load, then nanoseconds a
// query (median, least, most).
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "ngram/ngram.h"
#ifdef WITH_KENLM
#include "lm/model.hh"
#endif

using Clock = std::chrono::steady_clock;

static double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct Text {
  std::vector<std::vector<std::string>> lines;
  std::vector<std::pair<size_t, size_t>> places;  // line, word
};

static Text read(const char* path, size_t count) {
  Text text;
  std::ifstream file(path);
  std::vector<std::pair<size_t, size_t>> all;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    text.lines.emplace_back();
    for (std::string word; words >> word;) {
      all.emplace_back(text.lines.size() - 1, text.lines.back().size());
      text.lines.back().push_back(word);
    }
  }
  std::mt19937_64 random(1);
  for (size_t i = 0; i < count; ++i) text.places.push_back(all[random() % all.size()]);
  return text;
}

// A model made ready: round() asks every query once and returns their sum.
struct Contestant {
  std::string name;
  double load = 0;
  std::function<double()> round;
  std::vector<double> times;
};

// begin() -> State; index(word) -> id; score(state, id, out) -> log10
template <class State, class Begin, class Index, class Score>
static std::function<double()> prepare(const Text& text, Begin begin, Index index, Score score) {
  using Id = decltype(index(std::string()));
  std::vector<State> states;
  std::vector<Id> ids;
  for (const auto& [line, word] : text.places) {
    State state = begin(), next;
    for (size_t i = 0; i < word; ++i) {
      score(state, index(text.lines[line][i]), next);
      state = next;
    }
    states.push_back(state);
    ids.push_back(index(text.lines[line][word]));
  }
  return [states = std::move(states), ids = std::move(ids), score] {
    double sum = 0;
    State out;
    for (size_t i = 0; i < ids.size(); ++i) sum += score(states[i], ids[i], out);
    return sum;
  };
}

static Contestant ours(const std::string& name, const std::string& path, const Text& text) {
  using ctcspeech::ngram::Model;
  using ctcspeech::ngram::State;
  const auto start = Clock::now();
  std::shared_ptr<Model> model = Model::load(path);
  const double load = seconds_since(start);
  return {name, load,
          prepare<State>(
              text, [=] { return model->begin_state(); },
              [=](const std::string& word) { return model->index(word); },
              [=](const State& in, ctcspeech::ngram::WordIndex word, State& out) {
                return model->score(in, word, out);
              }),
          {}};
}

#ifdef WITH_KENLM
template <class Model>
static Contestant kenlm(const std::string& name, const std::string& path, const Text& text) {
  using lm::ngram::State;
  const auto start = Clock::now();
  auto model = std::make_shared<Model>(path.c_str());
  const double load = seconds_since(start);
  return {name, load,
          prepare<State>(
              text, [=] { return model->BeginSentenceState(); },
              [=](const std::string& word) { return model->GetVocabulary().Index(word); },
              [=](const State& in, lm::WordIndex word, State& out) {
                return model->Score(in, word, out);
              }),
          {}};
}
#endif

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  const Text text = read(argv[1], std::strtoull(argv[2], nullptr, 10));
  std::vector<Contestant> contestants;
  for (int i = 3; i < argc; ++i) {
    const std::string argument = argv[i];
    const size_t colon = argument.find(':');
    const std::string name = argument.substr(0, colon), path = argument.substr(colon + 1);
    if (name.substr(0, 4) == "ours") contestants.push_back(ours(name, path, text));
#ifdef WITH_KENLM
    namespace kn = lm::ngram;
    if (name == "kenlm-probing") contestants.push_back(kenlm<kn::ProbingModel>(name, path, text));
    if (name == "kenlm-trie") contestants.push_back(kenlm<kn::TrieModel>(name, path, text));
    if (name == "kenlm-trie-8bit") contestants.push_back(kenlm<kn::QuantTrieModel>(name, path, text));
#endif
  }
  for (int round = 0; round < 9; ++round)
    for (Contestant& contestant : contestants) {
      const auto start = Clock::now();
      const double sum = contestant.round();
      contestant.times.push_back(seconds_since(start) * 1e9 / text.places.size());
      if (round == 0)
        std::printf("%s sum %.3f load %.6f\n", contestant.name.c_str(), sum, contestant.load);
    }
  for (Contestant& contestant : contestants) {
    std::sort(contestant.times.begin(), contestant.times.end());
    std::printf("%s ns %.1f %.1f %.1f\n", contestant.name.c_str(), contestant.times[4],
                contestant.times.front(), contestant.times.back());
  }
}
