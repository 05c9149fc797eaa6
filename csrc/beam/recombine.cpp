// What prefixes have in common: labellings of one text are summed, and of prefixes with the same future
// the best goes on.
#include <algorithm>
#include <cmath>

#include "beam/beam.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))

namespace ctcspeech::beam {

namespace {

constexpr double kNear = 1e-3;  // how likely, against the best, a reading must be to raise doubt
constexpr uint64_t kGap = 0x9E3779B97F4A7C15ull;  // tells a text from the same with a gap after it

uint64_t mix(uint64_t key) {
  key *= 0x9E3779B97F4A7C15ull;
  return key ^ (key >> 29);
}

uint64_t add_byte(uint64_t hash, uint8_t byte) { return mix(hash + byte + 1); }

}  // namespace

// The hash of the text of prefix `from` with `token`.
uint64_t Session::text_after(uint32_t from, uint32_t token) const {
  const Token& added = d_.tokens_[token];
  const bool gap = in_gap(from);
  uint64_t hash = text_without_gap(from);
  if (added.text.empty()) return hash + kGap;
  if ((gap || added.begins_word) && nodes_[from].token != kNil) hash = add_byte(hash, ' ');
  for (const char byte : added.text) hash = add_byte(hash, static_cast<uint8_t>(byte));
  return hash;
}

uint64_t Session::text_without_gap(uint32_t n) const { return texts_[n] - (in_gap(n) ? kGap : 0); }

// An empty table for so many keys.
void Session::start_slots(size_t keys) {
  size_t size = slots_.size();
  while (size < keys * 2) size *= 2;
  if (size != slots_.size() || ++stamp_ == 0) {
    slots_.assign(size, {0, 0, 0});
    stamp_ = 1;
  }
}

// The slot of a key, or the one to put it in.
ALWAYS_INLINE Session::Slot& Session::find_slot(uint64_t key) {
  const size_t last = slots_.size() - 1;
  // High bits of the product, which all bits of the key have a part in.
  size_t slot = (key * 0x9E3779B97F4A7C15ull) >> 40 & last;
  Slot* const slots = slots_.data();
  while (slots[slot].stamp == stamp_ && slots[slot].key != key) slot = (slot + 1) & last;
  return slots[slot];
}

// Adds to the first `kept` of scored_. Of prefixes with the same future only the best stays there.
ALWAYS_INLINE void Session::keep(const Scored& current, size_t& kept) {
  const Node& node = nodes_[current.node];
  if (!d_.use_recombination_ || (node.trie == kOov && steps_.wants_spelling())) {
    scored_[kept++] = current;
    return;
  }
  // Outside the lexicon only the last token matters, for its repetition.
  const uint64_t place = node.trie == kOov ? 0x80000000u | node.token : node.trie;
  const uint64_t key = uint64_t{node.state} << 32 | place;
  Slot& slot = find_slot(key);
  if (slot.stamp != stamp_) {
    slot = {key, stamp_, static_cast<uint32_t>(kept)};
    scored_[kept++] = current;
  } else {
    recombine(scored_[slot.value], current);
  }
}

// Two prefixes have the same future.
void Session::recombine(Scored& place, const Scored& current) {
  const bool wins = current.score > place.score;
  const Scored winner = wins ? current : place, loser = wins ? place : current;
  place = winner;
  drop(loser);
  if (d_.options_.word_times && winner.score > best_ * kNear)
    doubt(winner.node, loser.node, loser.score / winner.score);
  if (lists_) record(winner.node, loser.node, std::log(winner.score / loser.score));
}

// Prefixes of one text in different tokens become one entry of scored_: they differ in nothing but
// which token the next frame may repeat, so what ends in a blank is all the first one's.
void Session::merge_texts() {
  scored_.clear();
  for (const uint32_t n : next_) scored_.push_back({nodes_[n].next_pb + nodes_[n].next_pnb, n});
  start_slots(scored_.size());
  members_.clear();
  size_t kept = 0;
  for (const Scored current : scored_) {
    Node& node = nodes_[current.node];
    // Not of the text alone: a piece may hold a space that the lexicon takes for a letter.
    const uint64_t key = mix(texts_[current.node] ^ mix(uint64_t{node.state} << 32 | node.trie));
    Slot& slot = find_slot(key);
    if (slot.stamp != stamp_) {
      slot = {key, stamp_, static_cast<uint32_t>(kept)};
      scored_[kept++] = current;
      continue;
    }
    Scored& group = scored_[slot.value];
    group.score += current.score;
    uint32_t* same = nodes_[group.node].token == node.token ? &group.node : nullptr;
    for (uint32_t i = group.others; i != kNil && !same; i = members_[i].next)
      if (nodes_[members_[i].node].token == node.token) same = &members_[i].node;
    if (same) {  // they differ further back, which no frame to come can tell: the likelier stays
      Node& other = nodes_[*same];
      Node& winner = current.score > other.next_pb + other.next_pnb ? node : other;
      Node& loser = &winner == &node ? other : node;
      winner.next_pb += loser.next_pb;
      winner.next_pnb += loser.next_pnb;
      loser.pb = loser.pnb = 0;
      if (&winner == &node) *same = current.node;
    } else {
      members_.push_back({current.node, group.others});
      group.others = static_cast<uint32_t>(members_.size()) - 1;
    }
  }
  scored_.resize(kept);
  for (const Scored& group : scored_) best_ = std::max(best_, group.score);
  const double cut = best_ * d_.threshold_;
  kept = 0;
  start_slots(scored_.size());
  for (Scored group : scored_) {
    if (group.score < cut || group.score == 0) {
      drop(group);
      continue;
    }
    gather(group, cut);
    keep(group, kept);
  }
  scored_.resize(kept);
}

// Puts the likeliest of a text's prefixes first, and with it all that ends in a blank. Others stay while
// what ends in their tokens is no less than `cut`.
void Session::gather(Scored& group, double cut) {
  const auto total = [&](uint32_t n) { return nodes_[n].next_pb + nodes_[n].next_pnb; };
  for (uint32_t i = group.others; i != kNil; i = members_[i].next)
    if (total(members_[i].node) > total(group.node)) std::swap(members_[i].node, group.node);
  uint32_t* link = &group.others;
  while (*link != kNil) {
    Node& other = nodes_[members_[*link].node];
    nodes_[group.node].next_pb += other.next_pb;
    other.next_pb = 0;
    if (other.next_pnb >= cut && other.next_pnb > 0) {
      link = &members_[*link].next;
    } else {
      other.pb = other.pnb = 0;
      *link = members_[*link].next;
    }
  }
}

// What of next_ is worth going on with becomes scored_.
void Session::select() {
  event_order_ = first_event_of(time_);
  if (d_.merges_texts_) {
    merge_texts();
    return;
  }
  const double cut = best_ * d_.threshold_;
  scored_.resize(next_.size());
  start_slots(next_.size());
  size_t kept = 0;
  for (const uint32_t n : next_) {
    Node& node = nodes_[n];
    const double score = node.next_pb + node.next_pnb;
    if (score < cut || score == 0) {
      node.pb = node.pnb = 0;
    } else {
      keep({score, n}, kept);
    }
  }
  scored_.resize(kept);
}

// Notes for the confidences that another prefix, `ratio` times as likely, has other tokens than the
// winner. What both end in is not in doubt.
void Session::doubt(uint32_t winner, uint32_t loser, double ratio) {
  if (ratio < kNear) return;
  while (winner != loser && winner != root_ && loser != root_ &&
         nodes_[winner].token == nodes_[loser].token) {
    winner = nodes_[winner].parent;
    loser = nodes_[loser].parent;
  }
  while (winner != loser) {
    if (winner > loser) {
      doubts_[winner] = std::max(doubts_[winner], static_cast<float>(ratio));
      winner = nodes_[winner].parent;
    } else {
      loser = nodes_[loser].parent;
    }
  }
}

// Remembers for the n-best list that `loser` could stand in place of `winner`. The least loss counts:
// later ones come of the little that still flows in after the first recombination. In the order of
// events, also within a frame: what won over others may lose in its turn.
void Session::record(uint32_t winner, uint32_t loser, double loss) {
  auto& events = events_[text_key(winner)];
  // An earlier one that cost no more serves wherever this one would.
  for (const Event& event : events)
    if (event.loser == loser && event.loss <= loss) return;
  events.push_back({event_order_++, loser, static_cast<float>(loss)});
}

}  // namespace ctcspeech::beam
