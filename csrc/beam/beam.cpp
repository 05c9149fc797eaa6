#include "beam/beam.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <exception>
#include <numeric>

#include "base/parallel.h"

namespace ctcspeech::beam {

namespace {

constexpr size_t kBatchMemory = size_t{24} << 20, kFirstNodes = 8192;
constexpr int32_t kCommitEvery = 64;  // frames
constexpr double kLn10 = 2.302585092994046;

void sort_unique(std::vector<std::string>& words) {
  std::sort(words.begin(), words.end());
  words.erase(std::unique(words.begin(), words.end()), words.end());
}

uint32_t number_of(const std::vector<std::string>& words, const std::string& word) {
  const auto found = std::lower_bound(words.begin(), words.end(), word);
  return found != words.end() && *found == word ? static_cast<uint32_t>(found - words.begin())
                                                : kUnknown;
}

}  // namespace

Decoder::Decoder(const Config& config)
    : tokens_(config.tokens),
      blank_(config.blank),
      options_(config.options),
      threshold_(std::exp(-config.options.beam_threshold)),
      min_p_(static_cast<float>(std::exp(config.options.token_min_logp))),
      ngram_(config.ngram),
      lm_over_tokens_(config.lm_over_tokens && (config.ngram || config.custom_lm)),
      neural_(config.neural),
      neural_labels_(config.neural_labels) {
  keeps_frames_ = options_.word_times || options_.n_best > 1;
  for (uint32_t c = 0; c < tokens_.size(); ++c)
    if (c != blank_ && !tokens_[c].skipped && tokens_[c].begins_word) marked_words_ = true;
  tokens_are_words_ = lm_over_tokens_ && !marked_words_;
  for (uint32_t c = 0; c < tokens_.size(); ++c) {
    Token& token = tokens_[c];
    if (tokens_are_words_) token.begins_word = true;
    const bool plain = token.text.size() == 1 && !token.begins_word;
    const bool never = c == blank_ || token.skipped, separator = token.begins_word && token.text.empty();
    kinds_.push_back(never ? kNever : separator ? kSeparates : token.begins_word ? kBegins : kWithin);
    plain_byte_.push_back(plain ? static_cast<uint8_t>(token.text[0]) : -1);
  }
  spellings_ = std::make_unique<Spellings>(tokens_, blank_, lm_over_tokens_ || neural_);
  merges_texts_ = spellings_->ambiguous();
  build_lexicon(config);
}

std::vector<double> Decoder::log_probs(const float* emissions, int64_t frames) const {
  const size_t num = tokens_.size();
  std::vector<double> logp(static_cast<size_t>(frames) * num);
  for (int64_t t = 0; t < frames; ++t) {
    const float* row = emissions + static_cast<size_t>(t) * num;
    const float highest = *std::max_element(row, row + num);
    double sum = 0;
    for (size_t c = 0; c < num; ++c) sum += std::exp(static_cast<double>(row[c]) - highest);
    if (!std::isfinite(sum)) throw BadFrame(t, "holds NaN, +inf, or nothing but -inf");
    for (size_t c = 0; c < num; ++c)
      logp[static_cast<size_t>(t) * num + c] = static_cast<double>(row[c]) - highest - std::log(sum);
  }
  return logp;
}

double Decoder::ctc_score(const float* emissions, int64_t frames,
                          const std::vector<uint32_t>& tokens) const {
  return log_forward(spellings_->lattice(tokens), log_probs(emissions, frames), classes());
}

double Decoder::best_path(const float* emissions, int64_t frames,
                          const std::vector<uint32_t>& tokens, std::vector<uint32_t>& path) const {
  return beam::best_path(spellings_->lattice(tokens), log_probs(emissions, frames), classes(), path);
}

Decoder::~Decoder() = default;

// The words, their numbers in the language model, the trie with its look-ahead, the hot words.
void Decoder::build_lexicon(const Config& config) {
  std::vector<std::string> words = config.lexicon;
  if (config.lexicon_from_lm && ngram_) {
    for (uint32_t i = 1; i < ngram_->vocab_size(); ++i)
      if (i != ngram_->bos() && i != ngram_->eos()) words.emplace_back(ngram_->word(i));
  }
  std::array<bool, 256> has{};
  for (uint32_t c = 0; c < tokens_.size(); ++c) {
    if (c == blank_ || tokens_[c].skipped) continue;
    for (const char byte : tokens_[c].text) has[static_cast<uint8_t>(byte)] = true;
  }
  const auto unwritable = [&](const std::string& word) {
    return word.empty() || !std::all_of(word.begin(), word.end(),
                                        [&](char c) { return has[static_cast<uint8_t>(c)]; });
  };
  sort_unique(words);
  const size_t given = words.size();
  words.erase(std::remove_if(words.begin(), words.end(), unwritable), words.end());
  words_skipped_ = given - words.size();
  const bool has_lexicon = given > 0;
  open_ = options_.open_vocabulary || !has_lexicon;
  for (const auto& phrase : config.hot_words)
    for (const std::string& word : phrase.first)
      if (!unwritable(word)) words.push_back(word);
  sort_unique(words);
  num_words_ = words.size();
  if (!has_lexicon) options_.weights.unk_score = 0;  // no word is unknown where none is known
  // Nothing is alike to a neural model, whose state is all that was written.
  use_recombination_ = options_.recombine && !neural_ && (has_lexicon || ngram_ || config.custom_lm);

  const Weights& weights = options_.weights;
  const bool words_scored = ngram_ && !lm_over_tokens_;
  std::vector<double> values(words.size(), 0);
  double unknown = 0;
  if (ngram_) {
    for (const std::string& name : lm_over_tokens_ ? config.token_words : words)
      lm_indices_.push_back(ngram_->index(name));
  }
  if (words_scored) {
    ngram::State after;
    const auto unigram = [&](ngram::WordIndex word) {
      return weights.lm_weight * kLn10 * ngram_->score(ngram_->null_state(), word, after);
    };
    for (size_t i = 0; i < words.size(); ++i) values[i] = unigram(lm_indices_[i]);
    unknown = unigram(0);
  } else if (config.custom_lm) {
    custom_lm_ = [make = config.custom_lm, names = lm_over_tokens_ ? config.token_words : words] {
      return make(names);
    };
  }
  const double at_once = std::max(unknown + weights.unk_score, -options_.unknown_at_once);
  const double enter = std::clamp(at_once, -200.0, 200.0);
  if (has_lexicon) {
    oov_enter_ = std::exp(enter);
    oov_exit_ = std::exp(-enter);
  }
  double hot_gain = 0;
  if (!config.hot_words.empty()) {
    std::vector<std::pair<std::vector<uint32_t>, double>> phrases;
    for (const auto& [phrase, weight] : config.hot_words) {
      std::vector<uint32_t> numbers;
      for (const std::string& word : phrase) numbers.push_back(number_of(words, word));
      if (std::count(numbers.begin(), numbers.end(), kUnknown) > 0) continue;  // cannot be written
      hot_gain += std::max(weight, 0.0);
      if (numbers.size() == 1) values[numbers[0]] += weight;
      phrases.emplace_back(std::move(numbers), weight);
    }
    hot_ = std::make_unique<HotWords>(phrases);
  }
  trie_ = std::make_unique<Trie>(words);
  trie_->look_ahead(values);
  const double most = std::max(trie_->max_ratio(), oov_enter_);
  gain_ = hot_gain > 0 || oov_enter_ > 1 ? DBL_MAX : most;
  // Weights below zero would reward improbable words without limit.
  const bool bounded = weights.lm_weight >= 0 && hot_gain == 0;
  word_gain_ = bounded ? std::exp(weights.word_score + std::max(weights.unk_score, 0.0)) : DBL_MAX;
}

std::unique_ptr<Session> Decoder::take() const {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!pool_.empty()) {
      auto session = std::move(pool_.back());
      pool_.pop_back();
      return session;
    }
  }
  return std::make_unique<Session>(*this, kBatchMemory);
}

void Decoder::give(std::unique_ptr<Session> session) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!custom_lm_) pool_.push_back(std::move(session));
}

namespace {

std::unique_ptr<LanguageModel> make_model(
    const ngram::Model* ngram, const std::vector<ngram::WordIndex>& indices,
    const std::function<std::unique_ptr<LanguageModel>()>& custom) {
  if (ngram) return std::make_unique<NgramModel>(*ngram, indices);
  return custom ? custom() : nullptr;
}

}  // namespace

Session::Session(const Decoder& decoder, size_t memory_limit)
    : d_(decoder),
      lists_(decoder.options_.n_best > 1),
      steps_(make_model(decoder.ngram_, decoder.lm_indices_, decoder.custom_lm_),
             decoder.lm_over_tokens_,
             decoder.neural_ ? std::make_unique<NeuralLm>(*decoder.neural_, decoder.neural_labels_)
                             : nullptr,
             decoder.hot_.get(), decoder.options_.weights),
      p_((decoder.tokens_.size() + 3) / 4 * 4),
      slots_(1024),
      memory_limit_(memory_limit) {
  nodes_.reserve(kFirstNodes + kFirstNodes / 4);
}

void Session::begin(const std::vector<std::string>& context) {
  if (steps_.bytes() > memory_limit_) steps_.keep({});
  nodes_.clear();
  doubts_.assign(1, 0);
  entered_.assign(d_.options_.n_best > 1 ? 1 : 0, 0);
  texts_.assign(d_.merges_texts_ ? 1 : 0, 0);
  active_.clear();
  events_.clear();
  committed_.clear();
  committed_times_.clear();
  logp_.clear();
  log_scale_ = 0;
  time_ = kept_from_ = 0;
  dead_ = false;
  root_ = anchor_ = 0;
  compact_at_ = kFirstNodes;
  start_state_ = steps_.begin();
  for (const std::string& word : context) {
    uint32_t place = Trie::kRoot;
    for (const char byte : word)
      if (place != Trie::kNone) place = d_.trie_->child(place, static_cast<uint8_t>(byte));
    uint32_t number = place == Trie::kNone ? kNoWord : (*d_.trie_)[place].word;
    if (number == kNoWord) {
      number = steps_.wants_spelling() ? steps_.lm()->spelled(word) : kUnknown;
    }
    start_state_ = steps_.word(start_state_, number).next;
  }
  nodes_.push_back({1, 0, 0, 0, 0, Trie::kRoot, start_state_, kNil, kNil, kNil, 0, -1});
  active_.push_back(0);
}

void Session::accept(const float* emissions, int64_t frames, int64_t stride) {
  for (int64_t i = 0; i < frames; ++i) {
    if (dead_) {
      ++time_;
      continue;
    }
    frame(emissions + i * stride);
    ++time_;
    if (dead_) continue;
    if (time_ % kCommitEvery == 0) commit();
    if (nodes_.size() > compact_at_) compact();
  }
}

void decode_batch(const Decoder& decoder, std::vector<Utterance>& utterances, int threads) {
  std::vector<size_t> order(utterances.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return utterances[a].frames > utterances[b].frames;
  });
  threads = std::max(1, std::min<int>(threads, static_cast<int>(utterances.size())));
  std::vector<std::unique_ptr<Session>> sessions;
  for (int i = 0; i < threads; ++i) sessions.push_back(decoder.take());
  std::vector<std::exception_ptr> failures(utterances.size());
  parallel_for(static_cast<int64_t>(order.size()), threads, [&](int64_t i, int worker) {
    Utterance& utterance = utterances[order[static_cast<size_t>(i)]];
    try {
      Session& session = *sessions[static_cast<size_t>(worker)];
      session.begin(utterance.context);
      session.accept(utterance.emissions, utterance.frames, decoder.num_tokens());
      utterance.hypotheses = session.finish();
    } catch (const BadFrame& bad) {
      utterance.bad_frame = bad.frame;
      utterance.error = bad.what();
    } catch (...) {
      failures[order[static_cast<size_t>(i)]] = std::current_exception();
    }
  });
  for (auto& session : sessions) decoder.give(std::move(session));
  for (const std::exception_ptr& failure : failures)
    if (failure) std::rethrow_exception(failure);
}

}  // namespace ctcspeech::beam
