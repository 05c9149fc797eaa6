// From the prefixes of the last frame to hypotheses: n-best, text, words with times, score parts.
#include <algorithm>
#include <cmath>
#include <limits>
#include <queue>
#include <unordered_set>

#include "beam.h"

namespace ctcspeech::beam {

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
    if (whole) {
      if (in_word && !close_last(node, n, w, state)) continue;
      w *= steps_.finish(state, d_.options_.end_of_sentence).factor;
    } else if (in_word) {
      w *= node.trie == kOov ? d_.oov_exit_ : (*d_.trie_)[node.trie].inverse;
    }
    if (w > 0) out.push_back({std::log(w), n, time_ + 1, {}});
  }
  std::stable_sort(out.begin(), out.end(),
                   [](const Final& a, const Final& b) { return a.score > b.score; });
  return out;
}

// Adds to `finals` what recombinations put aside, best first, until there are `wanted` different texts.
void Session::expand(std::vector<Final>& finals, size_t wanted) {
  struct Less {
    bool operator()(const std::pair<size_t, const Final*>& a,
                    const std::pair<size_t, const Final*>& b) const {
      if (a.second->score != b.second->score) return a.second->score < b.second->score;
      return a.first > b.first;  // the one found first
    }
  };
  std::vector<std::unique_ptr<Final>> store;
  std::priority_queue<std::pair<size_t, const Final*>,
                      std::vector<std::pair<size_t, const Final*>>, Less>
      queue;
  const auto push = [&](Final final) {
    store.push_back(std::make_unique<Final>(std::move(final)));
    queue.push({store.size(), store.back().get()});
  };
  for (Final& final : finals) push(std::move(final));
  finals.clear();
  std::unordered_set<std::string> texts;
  for (size_t tries = 0; !queue.empty() && texts.size() < wanted && tries < 1000 + 100 * wanted;
       ++tries) {
    const Final& top = *queue.top().second;
    queue.pop();
    std::vector<uint32_t> tokens;
    for (const uint32_t n : trace(top.node)) tokens.push_back(nodes_[n].token);
    for (size_t i = top.suffix.size(); i-- > 0;) tokens.push_back(nodes_[top.suffix[i]].token);
    Hypothesis text;
    write_words(tokens, {}, text);
    if (texts.insert(text.text).second) finals.push_back(top);
    std::vector<uint32_t> suffix = top.suffix;
    int32_t before = top.before;
    for (uint32_t n = top.node; n != root_; n = nodes_[n].parent) {
      const auto found = events_.find(n);
      if (found != events_.end()) {
        for (const Event& event : found->second)
          if (event.frame < before) push({top.score - event.loss, event.loser, event.frame, suffix});
      }
      suffix.push_back(n);
      before = nodes_[n].created;  // the path left the parent then: what came later is not of it
    }
  }
}

std::vector<Hypothesis> Session::finish() {
  const size_t wanted = static_cast<size_t>(d_.options_.n_best);
  std::vector<Final> ends;
  if (!dead_) ends = finals(true);
  for (size_t i = 1; d_.options_.word_times && i < ends.size(); ++i)
    doubt(ends[0].node, ends[i].node, std::exp(ends[i].score - ends[0].score));
  Ending ending = Ending::kWhole;
  if (ends.empty()) {  // no prefix ends in a complete word
    ends = finals(false);
    ending = d_.open_ ? Ending::kOpen : Ending::kCut;
  }
  if (wanted > 1 && ending == Ending::kWhole) {
    expand(ends, wanted);
  } else {
    ends.resize(1);
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
  std::vector<uint32_t> path = trace(final.node);
  path.insert(path.end(), final.suffix.rbegin(), final.suffix.rend());
  std::vector<uint32_t> tokens;
  const size_t known = committed_.size();
  const bool all_paths = d_.options_.n_best > 1;  // then the trace goes back to the start
  const bool through_anchor =
      !all_paths || known == 0 || (path.size() >= known && path[known - 1] == anchor_);
  if (all_paths && through_anchor) path.erase(path.begin(), path.begin() + known);
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
    align_tokens(aligned, false, logp_.data(), 0, 0, time_, static_cast<uint32_t>(d_.num_tokens()),
                 d_.blank_, times);
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
      const bool spelled = steps_.lm() && steps_.lm()->wants_spelling();
      number = spelled ? steps_.lm()->spelled(word) : kUnknown;
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
