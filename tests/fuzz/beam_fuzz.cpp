// Random decoders on random emissions: every kind of tokens, language model and option. A stream in
// random pieces must end as the whole does, threads must change nothing, and the scores must be those
// of the labellings. Built with sanitizers by tests/test_fuzz.py:
//
//   g++ -std=c++17 -g -O1 -fsanitize=address,undefined -Icsrc tests/fuzz/beam_fuzz.cpp csrc/beam/*.cpp
//       csrc/ngram/*.cpp -pthread
//   ./a.out SECONDS [SEED]
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "beam/beam.h"
#include "ngram/arpa.h"
#include "ngram/table.h"

using namespace ctcspeech;
using namespace ctcspeech::beam;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
std::mt19937_64 random_bits;
uint64_t seed;

int64_t between(int64_t low, int64_t high) {  // both included
  return low + static_cast<int64_t>(random_bits() % static_cast<uint64_t>(high - low + 1));
}
bool chance(int percent) { return between(1, 100) <= percent; }
double real(double low, double high) {
  return low + (high - low) * static_cast<double>(random_bits() >> 11) * 0x1p-53;
}
template <class T>
const T& any(const std::vector<T>& from) {
  return from[static_cast<size_t>(between(0, static_cast<int64_t>(from.size()) - 1))];
}

void require(bool right, const char* what) {
  if (right) return;
  std::fprintf(stderr, "seed %llu: %s\n", static_cast<unsigned long long>(seed), what);
  std::abort();
}

// A model of a user's own: scores follow from the words alone; states are the last words.
class OwnModel final : public LanguageModel {
 public:
  OwnModel(std::vector<std::string> words, size_t memory)
      : words_(std::move(words)), memory_(memory) {}
  uint32_t begin() override { return intern({}); }
  double score(uint32_t state, uint32_t word, uint32_t& next) override {
    require(state < states_.size(), "a state that there is not");
    std::vector<std::string> history = states_[state];
    const std::string& text = is_unknown(word) ? spelled_.at(word & 0x7FFFFFFFu) : words_.at(word);
    size_t hash = text.size() + 1;
    for (const char c : text) hash = hash * 31 + static_cast<unsigned char>(c);
    for (const std::string& w : history) hash = hash * 7 + w.size();
    history.push_back(text);
    while (history.size() > memory_) history.erase(history.begin());
    next = intern(history);
    return hash % 97 == 0 ? -kInfinity : -static_cast<double>(hash % 50) / 10;
  }
  double finish(uint32_t state) override {
    require(state < states_.size(), "a last state that there is not");
    return -1;
  }
  bool wants_spelling() const override { return true; }
  uint32_t spelled(const std::string& word) override {
    spelled_.push_back(word);
    return static_cast<uint32_t>(spelled_.size() - 1) | 0x80000000u;
  }
  size_t num_states() const override { return states_.size(); }
  void keep(const std::vector<uint32_t>& states) override {
    std::vector<std::vector<std::string>> kept;
    for (const uint32_t state : states) kept.push_back(states_.at(state));
    states_ = kept;
    numbers_.clear();
    for (uint32_t i = 0; i < states_.size(); ++i) numbers_[states_[i]] = i;
  }

 private:
  uint32_t intern(const std::vector<std::string>& history) {
    const auto [found, added] =
        numbers_.try_emplace(history, static_cast<uint32_t>(states_.size()));
    if (added) states_.push_back(history);
    return found->second;
  }
  std::vector<std::string> words_, spelled_;
  size_t memory_;
  std::vector<std::vector<std::string>> states_;
  std::map<std::vector<std::string>, uint32_t> numbers_;
};

std::string random_word() {
  std::string word;
  for (int64_t i = between(1, 4); i > 0; --i) word += any<std::string>({"a", "b", "c", "d", "\xC3"});
  return word;
}

std::unique_ptr<ngram::Model> random_model(const std::vector<std::string>& words) {
  std::vector<std::string> level = {"<s>", "</s>"};
  if (chance(80)) level.push_back("<unk>");
  for (const std::string& word : words) level.push_back(word);
  std::vector<std::vector<std::string>> levels = {level};
  for (int64_t order = between(1, 3); order > 1; --order) {
    std::vector<std::string> longer;
    for (const std::string& context : levels.back())
      for (const std::string& word : level)
        if (chance(20)) longer.push_back(context + " " + word);
    levels.push_back(longer);
  }
  std::string text = "\\data\\\n";
  for (size_t n = 1; n <= levels.size(); ++n)
    text += "ngram " + std::to_string(n) + "=" + std::to_string(levels[n - 1].size()) + "\n";
  for (size_t n = 1; n <= levels.size(); ++n) {
    text += "\n\\" + std::to_string(n) + "-grams:\n";
    for (const std::string& ngram : levels[n - 1]) {
      text += std::to_string(-real(0, 4)) + "\t" + ngram;
      if (n < levels.size() && chance(60)) text += "\t" + std::to_string(-real(0, 1));
      text += "\n";
    }
  }
  text += "\n\\end\\\n";
  size_t at = 0;
  ngram::LineReader lines([&](char* buffer, size_t size) {
    const size_t count = text.copy(buffer, size, at);
    at += count;
    return count;
  });
  const auto table = ngram::read_arpa(lines, "fuzz", -100.0f);
  return ngram::Model::from_image(
      chance(50) ? ngram::build_probing(*table) : ngram::build_trie(*table, 0, 0), "fuzz");
}

std::vector<Token> random_tokens(uint32_t& blank) {
  std::vector<Token> tokens;
  for (const char* letter : {"a", "b", "c", "d"})
    if (tokens.empty() || chance(80)) tokens.push_back({letter, false, false, false});
  if (chance(70)) tokens.push_back({"", true, chance(80), false});  // a separator
  if (chance(30)) tokens.push_back({"ab", chance(50), false, false});
  if (chance(30)) tokens.push_back({"cd", chance(50), false, false});
  if (chance(20)) tokens.push_back({"\xC3", false, false, false});
  if (chance(10)) tokens.push_back({"x", false, false, true});  // skipped
  std::shuffle(tokens.begin(), tokens.end(), random_bits);
  blank = static_cast<uint32_t>(between(0, static_cast<int64_t>(tokens.size())));
  tokens.insert(tokens.begin() + blank, Token{"", false, false, true});
  return tokens;
}

Config random_config(std::unique_ptr<ngram::Model>& model) {
  Config config;
  config.tokens = random_tokens(config.blank);
  Options& o = config.options;
  o.beam_size = static_cast<int>(any<int64_t>({1, 2, between(3, 30), between(30, 400)}));
  o.beam_threshold = any<double>({0.5, 8, 15, 40, kInfinity});
  o.token_min_logp = any<double>({-1, -8, -20, -kInfinity});
  o.weights.lm_weight = any<double>({0, 0.5, 2, -1, real(0, 30)});
  o.weights.word_score = real(-3, 4);
  o.weights.unk_score = real(-12, 2);
  o.open_vocabulary = chance(50);
  o.recombine = chance(85);
  o.end_of_sentence = chance(70);
  o.n_best = static_cast<int>(any<int64_t>({1, 1, 2, between(3, 40)}));
  o.word_times = chance(70);
  std::vector<std::string> words;
  for (int64_t i = between(0, 12); i > 0; --i) words.push_back(random_word());
  std::sort(words.begin(), words.end());
  words.erase(std::unique(words.begin(), words.end()), words.end());
  const int64_t kind = between(0, 3);
  config.lm_over_tokens = kind > 0 && chance(25);
  if (config.lm_over_tokens) {
    words.clear();
    for (size_t c = 0; c < config.tokens.size(); ++c) words.push_back("t" + std::to_string(c));
    config.token_words = words;
  }
  if (kind == 1 || kind == 2) {
    model = random_model(words);
    config.ngram = model.get();
    config.lexicon_from_lm = !config.lm_over_tokens && chance(60);
  } else if (kind == 3) {
    const size_t memory = static_cast<size_t>(between(0, 3));
    config.custom_lm = [memory](const std::vector<std::string>& names) {
      return std::make_unique<OwnModel>(names, memory);
    };
  }
  if (!config.lm_over_tokens && chance(60)) config.lexicon = words;
  for (int64_t i = chance(30) ? between(1, 3) : 0; i > 0; --i) {
    std::vector<std::string> phrase;
    for (int64_t k = between(1, 3); k > 0; --k)
      phrase.push_back(words.empty() || chance(30) ? random_word() : any(words));
    config.hot_words.emplace_back(phrase, real(-3, 6));
  }
  return config;
}

std::vector<float> random_emissions(int64_t frames, int64_t classes) {
  std::vector<float> out(static_cast<size_t>(frames * classes));
  const double scale = any<double>({0.2, 1, 3, 8, 50});
  std::normal_distribution<double> normal;
  for (float& value : out) value = static_cast<float>(scale * normal(random_bits));
  if (chance(10)) {
    for (float& value : out)
      if (chance(10)) value = any<float>({-HUGE_VALF, -1e30f, 0.0f, 88.0f, 1e30f});
    for (int64_t t = 0; t < frames; ++t) out[static_cast<size_t>(t * classes)] = 1;  // not all -inf
  }
  return out;
}

// What a labelling is, by the letters of its words with -2 between them, or, where the language model
// is one over tokens, by its tokens; the last element may be a gap to come.
std::vector<int32_t> append(std::vector<int32_t> form, int32_t number, const Config& config) {
  const Token& token = config.tokens[static_cast<size_t>(number)];
  const bool separator = token.begins_word && token.text.empty();
  const int32_t gap = config.lm_over_tokens ? number : -2;
  if (separator) {
    const bool nothing = form.empty() && (!config.lm_over_tokens || token.separates);
    if (!nothing && (form.empty() || form.back() != gap)) form.push_back(gap);
  } else if (config.lm_over_tokens) {
    form.push_back(number);
  } else {
    if (token.begins_word && !form.empty() && form.back() != gap) form.push_back(gap);
    for (const char byte : token.text) form.push_back(static_cast<uint8_t>(byte));
  }
  return form;
}

// ln P_ctc of what `labels` write: the forward algorithm in logarithms over every sequence of tokens
// that begins it, one token after the other.
double exact(const std::vector<float>& emissions, int64_t frames, const Config& config,
             const std::vector<int32_t>& labels) {
  const size_t classes = config.tokens.size();
  const auto add = [](double a, double b) {
    const double high = std::max(a, b);
    return high == -kInfinity ? high : high + std::log(std::exp(a - high) + std::exp(b - high));
  };
  std::vector<int32_t> target;
  for (const int32_t label : labels) target = append(target, label, config);
  int32_t gap = -1;
  for (size_t c = 0; c < classes; ++c) {
    const Token& token = config.tokens[c];
    if (c != config.blank && !token.skipped && token.begins_word && token.text.empty())
      if (!config.lm_over_tokens || token.separates) gap = static_cast<int32_t>(c);
  }
  const size_t length = target.size();
  if (gap >= 0) target = append(target, gap, config);  // may end in one
  const size_t forms = target.size() + 1;
  std::vector<std::vector<size_t>> next(forms, std::vector<size_t>(classes, forms));
  for (size_t n = 0; n < forms; ++n) {
    const std::vector<int32_t> form(target.begin(), target.begin() + static_cast<ptrdiff_t>(n));
    for (size_t c = 0; c < classes; ++c) {
      if (c == config.blank || config.tokens[c].skipped) continue;
      const std::vector<int32_t> after = append(form, static_cast<int32_t>(c), config);
      if (after.size() < forms && std::equal(after.begin(), after.end(), target.begin()))
        next[n][c] = after.size();
    }
  }
  // By what is written and the class of the last frame.
  std::vector<std::vector<double>> alpha(forms, std::vector<double>(classes, -kInfinity));
  alpha[0][config.blank] = 0;
  for (int64_t t = 0; t < frames; ++t) {
    const float* row = &emissions[static_cast<size_t>(t) * classes];
    const double highest = *std::max_element(row, row + classes);
    double norm = -kInfinity;
    for (size_t c = 0; c < classes; ++c) norm = add(norm, row[c] - highest);
    std::vector<std::vector<double>> now(forms, std::vector<double>(classes, -kInfinity));
    for (size_t n = 0; n < forms; ++n)
      for (size_t last = 0; last < classes; ++last)
        for (size_t c = 0; c < classes && alpha[n][last] > -kInfinity; ++c) {
          const size_t to = c == last || c == config.blank ? n : next[n][c];
          if (to == forms) continue;
          now[to][c] = add(now[to][c], alpha[n][last] + (row[c] - highest - norm));
        }
    alpha.swap(now);
  }
  double total = -kInfinity;
  for (size_t n = length; n < forms; ++n)
    for (size_t c = 0; c < classes; ++c) total = add(total, alpha[n][c]);
  return total;
}

void check(const std::vector<Hypothesis>& found, const Config& config,
           const std::vector<float>& emissions, int64_t frames) {
  require(!found.empty(), "a hypothesis");
  require(found.size() <= static_cast<size_t>(config.options.n_best), "at most n_best");
  // Never above the truth; below it where probabilities are under exp(-87) of a frame's highest, or
  // by the alignments that hold next to nothing of the mass in some frame.
  bool resolved = true;
  const size_t classes = config.tokens.size();
  for (size_t t = 0; t < emissions.size(); t += classes) {
    const auto [low, high] = std::minmax_element(&emissions[t], &emissions[t] + classes);
    resolved &= *high - *low < 15;
  }
  std::set<std::string> texts;
  for (const Hypothesis& h : found) {
    require(!std::isnan(h.score) && h.score < kInfinity, "a score");
    require(texts.insert(h.text).second, "different texts");
    require(&h == &found[0] || h.score <= (&h)[-1].score, "the best first");
    for (const WordResult& word : h.words)
      require(word.begin < word.end && word.end <= h.text.size(), "words within the text");
    for (const int32_t token : h.tokens)
      require(token >= 0 && token < static_cast<int32_t>(config.tokens.size()) &&
                  token != static_cast<int32_t>(config.blank),
              "tokens");
    // Where a last word is cut off, or nothing is possible, the score is that of more than the text.
    const bool list = found.size() > 1;
    if (!list || !std::isfinite(h.ctc_score)) continue;
    const double truth = exact(emissions, frames, config, h.tokens);
    const double more = h.ctc_score - truth, most = 1e-3 + 1e-5 * std::fabs(truth);
    const bool right = more <= most && (!resolved || more > -1 - 0.01 * std::fabs(truth));
    if (!right) std::fprintf(stderr, "%s: %g, not %g\n", h.text.c_str(), h.ctc_score, truth);
    require(right, "exact ctc scores");
  }
}

bool equal(const std::vector<Hypothesis>& a, const std::vector<Hypothesis>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i)
    if (a[i].tokens != b[i].tokens || a[i].text != b[i].text || a[i].score != b[i].score)
      return false;
  return true;
}

void run_case() {
  std::unique_ptr<ngram::Model> model;
  const Config config = random_config(model);
  const Decoder decoder(config);
  const int64_t classes = decoder.num_tokens();
  std::vector<std::vector<float>> emissions;
  std::vector<Utterance> utterances(static_cast<size_t>(between(1, 4)));
  for (Utterance& utterance : utterances) {
    utterance.frames = any<int64_t>({0, 1, between(2, 20), between(20, chance(20) ? 300 : 80)});
    emissions.push_back(random_emissions(utterance.frames, classes));
    if (chance(20) && !config.lm_over_tokens) utterance.context = {random_word(), random_word()};
  }
  for (size_t i = 0; i < utterances.size(); ++i) utterances[i].emissions = emissions[i].data();
  decode_batch(decoder, utterances, static_cast<int>(between(1, 3)));
  for (size_t i = 0; i < utterances.size(); ++i) {
    const Utterance& utterance = utterances[i];
    if (utterance.bad_frame >= 0) continue;
    check(utterance.hypotheses, config, emissions[i], utterance.frames);
    Session session(decoder, static_cast<size_t>(any<int64_t>({0, 1 << 12, 1 << 19})));
    session.begin(utterance.context);
    for (int64_t t = 0; t < utterance.frames;) {
      const int64_t count = std::min(utterance.frames - t, between(0, 30));
      session.accept(&emissions[i][static_cast<size_t>(t * classes)], count, classes);
      t += count;
      if (chance(50)) {
        const Partial partial = session.partial();
        require(partial.final_bytes <= partial.best.text.size(), "a final part of the text");
      }
    }
    require(equal(session.finish(), utterance.hypotheses), "a stream ends as the whole");
  }
}

}  // namespace

int main(int count, char** arguments) {
  const double seconds = count > 1 ? std::atof(arguments[1]) : 10;
  seed = count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 0;
  const auto start = std::chrono::steady_clock::now();
  int64_t cases = 0;
  for (; std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() < seconds;
       ++seed, ++cases) {
    random_bits.seed(seed);
    run_case();
  }
  std::printf("%lld cases\n", static_cast<long long>(cases));
}
