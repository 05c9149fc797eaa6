// From the prefixes of the last frame to hypotheses: n-best, text, words with times, score parts.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <unordered_map>

#include "beam/beam.h"

namespace ctcspeech::beam {

namespace {

constexpr size_t kSpareReadings = 10;  // looked at beyond n_best, since their order is a guess at first

}  // namespace

// The prefixes between the root and `node`, in order.
std::vector<uint32_t> Session::trace(uint32_t node) const {
  std::vector<uint32_t> path;
  for (; node != root_; node = nodes_[node].parent) path.push_back(node);
  std::reverse(path.begin(), path.end());
  return path;
}

// The letters of the word that `node` is in.
std::string Session::spelling(uint32_t node) const {
  std::vector<uint32_t> tokens;
  for (uint32_t n = node; n != root_ && tokens.size() < nodes_.size(); n = nodes_[n].parent) {
    tokens.push_back(nodes_[n].token);
    if (d_.tokens_[nodes_[n].token].begins_word) break;
  }
  const bool whole = !tokens.empty() && d_.tokens_[tokens.back()].begins_word;
  if (!whole && d_.options_.n_best == 1) {  // the word began in the committed part
    for (size_t i = committed_.size(); i-- > 0;) {
      tokens.push_back(committed_[i]);
      if (d_.tokens_[committed_[i]].begins_word) break;
    }
  }
  std::string text;
  for (size_t i = tokens.size(); i-- > 0;) text += d_.tokens_[tokens[i]].text;
  return text;
}

// Ways to end with the active prefixes, best first. `whole`: the last word must be complete and the
// sentence ends.
std::vector<Session::Final> Session::finals(bool whole) {
  std::vector<Final> out;
  for (const uint32_t n : active_) {
    const Node node = nodes_[n];
    double w = node.pb + node.pnb;
    uint32_t state = node.state;
    const bool in_word = node.trie != Trie::kRoot;
    const bool superfluous = in_gap(n) && is_superfluous_last(node.token);
    if (whole) {
      if (in_word && !close_last(node, n, w, state)) continue;
      if (superfluous && steps_.lm_over_tokens()) {  // the model does not score this separator
        const Node before = nodes_[node.parent];
        double closing = 1;
        state = before.state;
        close_last(before, node.parent, closing, state);
        w /= steps_.token(state, node.token).factor;
      }
      w *= steps_.finish(state, d_.options_.end_of_sentence).factor;
    } else if (in_word) {
      w *= node.trie == kOov ? d_.oov_exit_ : (*d_.trie_)[node.trie].inverse;
    }
    uint64_t key = superfluous ? node.parent : n;
    if (d_.merges_texts_) key = text_without_gap(n);
    if (w > 0) out.push_back({std::log(w), n, key, {}, {}});
  }
  std::stable_sort(out.begin(), out.end(),
                   [](const Final& a, const Final& b) { return a.score > b.score; });
  return out;
}

// Sums what has one text: with a separator at its end and without, in these pieces and in others. The
// likeliest stands for all.
void Session::merge(std::vector<Final>& finals) {
  std::unordered_map<uint64_t, size_t> places;
  size_t kept = 0;
  for (Final& final : finals) {
    const auto [found, added] = places.try_emplace(final.key, kept);
    if (added) {
      std::swap(finals[kept++], final);
    } else {
      double& sum = finals[found->second].score;
      sum += std::log1p(std::exp(final.score - sum));
    }
  }
  finals.resize(kept);
  std::stable_sort(finals.begin(), finals.end(),
                   [](const Final& a, const Final& b) { return a.score > b.score; });
}

// A hypothesis does not end with this token: without it the text is the same.
bool Session::is_superfluous_last(uint32_t token) const {
  return d_.spellings_->trims() && d_.spellings_->is_separator(token);
}

std::vector<Hypothesis> Session::finish() {
  const size_t wanted = static_cast<size_t>(d_.options_.n_best);
  std::vector<Final> ends;
  if (!dead_) ends = finals(true);
  std::vector<Final> texts = ends;
  merge(texts);
  for (size_t i = 1; d_.options_.word_times && i < texts.size(); ++i)
    doubt(texts[0].node, texts[i].node, std::exp(texts[i].score - texts[0].score));
  Ending ending = Ending::kWhole;
  if (ends.empty()) {  // no prefix ends in a complete word
    ends = finals(false);
    ending = d_.open_ ? Ending::kOpen : Ending::kCut;
  }
  if (wanted > 1 && ending == Ending::kWhole) {
    expand(ends, wanted + std::min(wanted, kSpareReadings));
    rescore(ends);
    if (ends.size() > wanted) ends.resize(wanted);
  } else {
    if (ending == Ending::kWhole) ends = texts;
    ends.resize(1);
    ends[0].path = trace(ends[0].node);
  }
  std::vector<Hypothesis> out;
  for (const Final& end : ends) out.push_back(describe(end, ending));
  if (dead_) {
    constexpr double kImpossible = -std::numeric_limits<double>::infinity();
    out[0].score = out[0].ctc_score = kImpossible;
  }
  return out;
}

Partial Session::partial() {
  Partial out;
  std::vector<Final> ends = finals(false);
  ends.resize(1);
  ends[0].path = trace(ends[0].node);
  out.best = describe(ends[0], Ending::kOpen);
  std::vector<uint32_t> shared;
  if (d_.options_.n_best == 1) shared = committed_;
  for (const uint32_t n : trace(common_ancestor())) shared.push_back(nodes_[n].token);
  if (d_.marked_words_) drop_partial_word(shared);
  Hypothesis stable;
  write_words(shared, {}, stable);
  out.final_bytes = stable.text.size();
  return out;
}

// Cuts tokens back to the end of the last complete word.
void Session::drop_partial_word(std::vector<uint32_t>& tokens) const {
  if (d_.tokens_are_words_) return;
  while (!tokens.empty()) {
    const Token& last = d_.tokens_[tokens.back()];
    if (last.begins_word && last.text.empty()) return;
    tokens.pop_back();
    if (last.begins_word) return;
  }
}

Hypothesis Session::describe(const Final& final, Ending ending) {
  std::vector<uint32_t> path = final.path, tokens;
  if (!path.empty() && is_superfluous_last(nodes_[path.back()].token)) path.pop_back();
  const size_t known = committed_.size();
  bool through_anchor = true;
  if (d_.options_.n_best > 1) {  // then the path begins at the start, and may go another way
    const std::vector<uint32_t> shared = trace(anchor_);
    through_anchor = path.size() >= known && std::equal(shared.begin(), shared.end(), path.begin());
    if (through_anchor) path.erase(path.begin(), path.begin() + static_cast<ptrdiff_t>(known));
  }
  if (through_anchor) tokens = committed_;
  for (const uint32_t n : path) tokens.push_back(nodes_[n].token);

  std::vector<TokenTime> times;
  if (d_.options_.word_times && through_anchor) {
    times = committed_times_;
    std::vector<TokenTime> rest = times_of(path, kept_from_ + static_cast<int32_t>(
                                                     logp_.size() / d_.tokens_.size()));
    if (known > 0) times.pop_back();
    times.insert(times.end(), rest.begin(), rest.end());
  } else if (d_.options_.word_times) {
    std::vector<AlignedToken> aligned;
    for (const uint32_t token : tokens) aligned.push_back({token, 0, time_});
    best_times(aligned, false, 0, time_, times);
  }

  Hypothesis out;
  out.score = final.score + log_scale_;
  const double lm_part = lm_parts(tokens, ending == Ending::kWhole, out.lm_score);
  out.ctc_score = out.score - lm_part;
  if (ending == Ending::kCut) {
    drop_partial_word(tokens);
    times.resize(std::min(times.size(), tokens.size()));
  }
  out.tokens.assign(tokens.begin(), tokens.end());
  write_words(tokens, times, out);
  return out;
}

// The text of tokens and, where `times` are given, the times of its words.
void Session::write_words(const std::vector<uint32_t>& tokens, const std::vector<TokenTime>& times,
                          Hypothesis& out) const {
  bool in_word = false;
  float peaks = 0, doubt = 0;
  int count = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const Token& token = d_.tokens_[tokens[i]];
    if (token.begins_word) in_word = false;
    if (token.text.empty()) continue;
    if (!in_word) {
      if (d_.marked_words_ && !out.text.empty()) out.text += ' ';
      const uint32_t begin = static_cast<uint32_t>(out.text.size());
      out.words.push_back({begin, begin, 0, 0, 0});
      if (!times.empty()) out.words.back().start_frame = static_cast<float>(times[i].start);
      in_word = true;
      peaks = doubt = 0;
      count = 0;
    }
    out.text += token.text;
    WordResult& word = out.words.back();
    word.end = static_cast<uint32_t>(out.text.size());
    if (!times.empty()) {
      word.end_frame = static_cast<float>(times[i].end);
      peaks += times[i].peak;
      doubt = std::max(doubt, times[i].doubt);
      ++count;
      // How much the best other reading weighs, flattened by a half: fitted to simulated emissions.
      // Without recombinations other readings are not seen; then what the network said of the tokens.
      word.confidence = d_.use_recombination_ ? 1 / (1 + 0.83f * std::sqrt(doubt + 1e-4f))
                                              : std::exp(peaks / static_cast<float>(count));
    }
  }
}

// ln of all that language model, word score and hot words give these tokens; lm_score is the language
// model's own part, unweighted.
double Session::lm_parts(const std::vector<uint32_t>& tokens, bool whole, double& lm_score) {
  uint32_t state = start_state_, trie = Trie::kRoot;
  std::string word;
  double total = 0;
  lm_score = 0;
  const auto take = [&](const Step& step) {
    total += std::log(step.factor);
    lm_score += step.ln_lm;
    state = step.next;
  };
  const auto close = [&] {
    if (trie == Trie::kRoot) return;
    uint32_t number = trie == kOov ? kNoWord : (*d_.trie_)[trie].word;
    if (number == kNoWord) {
      number = steps_.wants_spelling() ? steps_.lm()->spelled(word) : kUnknown;
    }
    take(steps_.word(state, number));
  };
  for (const uint32_t number : tokens) {
    const Token& token = d_.tokens_[number];
    if (token.begins_word) {
      close();
      trie = Trie::kRoot;
      word.clear();
    }
    for (const char byte : token.text) {
      word += byte;
      if (trie != kOov) trie = d_.trie_->child(trie, static_cast<uint8_t>(byte));
      if (trie == Trie::kNone) trie = kOov;
    }
    if (steps_.lm_over_tokens()) take(steps_.token(state, number));
  }
  if (whole) {
    close();
    take(steps_.finish(state, d_.options_.end_of_sentence));
  }
  return total;
}

}  // namespace ctcspeech::beam
