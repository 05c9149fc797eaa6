// What keeps a session small however long it runs: prefixes that all share are committed, prefixes
// that no one can reach again are forgotten. None of it changes a result: it happens at fixed frames
// and sizes, whatever the chunks.
#include <algorithm>
#include <cmath>

#include "beam/beam.h"

namespace ctcspeech::beam {

// The longest prefix that all active ones share. Parents have lower numbers than their children.
uint32_t Session::common_ancestor() const {
  uint32_t common = active_[0];
  for (uint32_t n : active_) {
    while (n != common) {
      if (n > common) {
        n = nodes_[n].parent;
      } else {
        common = nodes_[common].parent;
      }
    }
  }
  return common;
}

// Makes the shared prefix final: its tokens and their times are written down. Its last token's end
// stays open until the next time.
void Session::commit() {
  uint32_t common = common_ancestor();
  if (in_gap(common)) common = nodes_[common].parent;  // a last separator may turn out superfluous
  if (common == anchor_) return;
  std::vector<uint32_t> path;
  for (uint32_t n = common; n != anchor_; n = nodes_[n].parent) path.push_back(n);
  std::reverse(path.begin(), path.end());
  const int32_t end = std::min(nodes_[common].touched + 1, time_);
  if (d_.options_.word_times) {
    std::vector<TokenTime> times = times_of(path, end);
    size_t first = 0;
    if (!committed_.empty()) {
      committed_times_.back() = times[0];
      first = 1;
    }
    committed_times_.insert(committed_times_.end(), times.begin() + first, times.end());
  }
  for (const uint32_t n : path) committed_.push_back(nodes_[n].token);
  anchor_ = common;
  if (d_.options_.n_best > 1) return;  // other hypotheses may still branch off before it
  root_ = common;
  if (d_.options_.word_times) {
    const int32_t start = committed_times_.back().start;
    const auto drop = static_cast<ptrdiff_t>(start - kept_from_) * d_.num_tokens();
    logp_.erase(logp_.begin(), logp_.begin() + drop);
    kept_from_ = start;
  }
}

// Times of the tokens along `path`, which goes on from the committed prefix; its last token, where
// there is one, comes first.
std::vector<TokenTime> Session::times_of(const std::vector<uint32_t>& path, int32_t end) const {
  std::vector<AlignedToken> tokens;
  const bool anchored = !committed_.empty();
  const int32_t begin = anchored ? committed_times_.back().start : 0;
  if (anchored) tokens.push_back({committed_.back(), begin, nodes_[anchor_].touched});
  for (const uint32_t n : path)
    tokens.push_back({nodes_[n].token, nodes_[n].created, nodes_[n].touched});
  std::vector<TokenTime> times = align(tokens, path, begin, end);
  if (anchored) times[0].doubt = committed_times_.back().doubt;
  for (size_t i = 0; i < path.size(); ++i) times[i + anchored].doubt = doubts_[path[i]];
  return times;
}

// The best alignment of tokens with frames begin..end-1.
bool Session::best_times(std::vector<AlignedToken>& tokens, bool anchored, int32_t begin, int32_t end,
                         std::vector<TokenTime>& times) const {
  const Spellings& spellings = *d_.spellings_;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const bool last = i + 1 == tokens.size();
    const bool word_follows = !last && d_.tokens_[tokens[i + 1].token].begins_word &&
                              !spellings.is_separator(tokens[i + 1].token);
    tokens[i].gap_after = last || word_follows || spellings.is_separator(tokens[i].token);
  }
  const AlignedFrames frames{logp_.data(), kept_from_, begin, end,
                             static_cast<uint32_t>(d_.num_tokens()), d_.blank_,
                             spellings.separators()};
  return align_tokens(tokens, anchored, frames, times);
}

std::vector<TokenTime> Session::align(std::vector<AlignedToken>& tokens,
                                      const std::vector<uint32_t>& path, int32_t begin,
                                      int32_t end) const {
  const bool anchored = tokens.size() > path.size();
  std::vector<TokenTime> times;
  if (best_times(tokens, anchored, begin, end, times)) return times;
  // A path put together from recombined parts may need other frames than the beam held it in.
  for (AlignedToken& token : tokens) {
    token.first = begin;
    token.last = end;
  }
  if (best_times(tokens, anchored, begin, end, times)) return times;
  const uint32_t num = static_cast<uint32_t>(d_.num_tokens());
  for (size_t i = 0; i < tokens.size(); ++i) {
    const int32_t start = anchored && i == 0 ? begin : nodes_[path[i - anchored]].created;
    const size_t row = static_cast<size_t>(std::max(start - kept_from_, 0)) * num;
    times[i] = {start, start + 1, row < logp_.size() ? logp_[row + tokens[i].token] : 0.0f};
  }
  return times;
}

// Forgets the prefixes that neither an active one goes on from, nor an n-best alternative.
void Session::compact() {
  std::vector<uint8_t> alive(nodes_.size(), 0);
  std::vector<uint32_t> work = active_;
  const auto revive = [&](uint32_t n) {
    alive[n] = 1;
    const auto found = events_.find(text_key(n));
    if (found == events_.end()) return;
    for (const Event& event : found->second) work.push_back(event.loser);
  };
  revive(root_);  // the empty prefix, too, may have won over another
  while (!work.empty()) {
    uint32_t n = work.back();
    work.pop_back();
    for (; !alive[n]; n = nodes_[n].parent) revive(n);
  }
  std::vector<uint32_t> number(nodes_.size(), kNil);
  std::vector<std::pair<uint64_t, uint64_t>> keys;  // of the prefixes that stay, before and after
  uint32_t count = 0;
  for (uint32_t n = 0; n < nodes_.size(); ++n) {
    if (!alive[n]) continue;
    number[n] = count;
    if (!events_.empty()) keys.emplace_back(text_key(n), d_.merges_texts_ ? texts_[n] : count);
    Node node = nodes_[n];
    node.child = node.sibling = kNil;
    if (n == root_) {
      node.parent = count;
    } else {
      node.parent = number[node.parent];
      node.sibling = nodes_[node.parent].child;
      nodes_[node.parent].child = count;
    }
    doubts_[count] = doubts_[n];
    if (d_.merges_texts_) texts_[count] = texts_[n];
    if (!entered_.empty()) entered_[count] = entered_[n];
    nodes_[count++] = node;
  }
  nodes_.resize(count);
  doubts_.resize(count);
  if (d_.merges_texts_) texts_.resize(count);
  if (!entered_.empty()) entered_.resize(count);
  for (uint32_t& n : active_) n = number[n];
  root_ = number[root_];
  anchor_ = number[anchor_];
  std::unordered_map<uint64_t, std::vector<Event>> events;
  for (const auto& [before, after] : keys) {
    const auto found = events_.find(before);
    if (found == events_.end()) continue;
    for (Event& event : found->second) event.loser = number[event.loser];
    events.emplace(after, std::move(found->second));
    events_.erase(found);
  }
  events_.swap(events);
  compact_at_ = std::max<size_t>(8192, 2 * nodes_.size());
  if (steps_.bytes() > memory_limit_) compact_states();
}

// Forgets the language model's states that no prefix is in, and the remembered scores.
void Session::compact_states() {
  std::vector<uint32_t> states{start_state_};
  for (const Node& node : nodes_) states.push_back(node.state);
  std::sort(states.begin(), states.end());
  states.erase(std::unique(states.begin(), states.end()), states.end());
  steps_.keep(states);
  const auto renumber = [&](uint32_t state) {
    return static_cast<uint32_t>(std::lower_bound(states.begin(), states.end(), state) -
                                 states.begin());
  };
  start_state_ = renumber(start_state_);
  for (Node& node : nodes_) node.state = renumber(node.state);
}

size_t Session::bytes() const {
  return nodes_.capacity() * (sizeof(Node) + sizeof(float)) + logp_.capacity() * sizeof(float) +
         (slots_.capacity() + scored_.capacity()) * sizeof(Slot) + steps_.bytes() +
         (active_.capacity() + next_.capacity() + committed_.capacity() * 4) * sizeof(uint32_t);
}

}  // namespace ctcspeech::beam
