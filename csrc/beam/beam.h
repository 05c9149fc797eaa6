// Prefix beam search for CTC with an n-gram language model.
//
//   Decoder decoder(config);                     // immutable, shared by any number of threads
//   Session session(decoder, memory_limit);      // one utterance at a time, one thread
//   session.begin();
//   session.accept(emissions, frames, stride);   // any number of times: (frames, C) logits
//   std::vector<Hypothesis> best = session.finish();
//
// The search maximises, over labellings c (Hannun et al. 2014, section 3; natural logarithms),
//
//   Q(c) = ln P_ctc(c | x) + lm_weight ln P_lm(c) + word_score word_count(c)
//          + neural_weight ln P_neural(c)
//
// where c is a text, and P_ctc sums over all its labellings: those that differ in separators at either
// end, or several in a row, and all the pieces that write it (spellings.h). Under a language model over
// tokens, labellings that differ in more than such separators are told apart.
//
// over a tree of prefixes, each with the mass of its alignments that end in a blank (pb) and in its
// last token (pnb) (Graves 2012, section 7; Hannun et al. 2014, algorithm 1). Sums are kept in the
// linear domain, scaled to the best prefix in each frame. Prefixes that the future cannot tell apart
// (same state of the language model, same place in the lexicon) are recombined: the best one goes on.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "beam/token_times.h"
#include "beam/lexicon.h"
#include "beam/lm_steps.h"
#include "beam/neural_lm.h"
#include "beam/spellings.h"

namespace ctcspeech::beam {

struct Options {
  int beam_size = 100;          // prefixes kept after each frame
  double beam_threshold = 15;   // prefixes this much below the best (natural log) are dropped
  double token_min_logp = -8;   // tokens below this are not tried in a frame, but for the best one
  Weights weights;
  // token_min_logp holds for blanks, separators in gaps, and repetitions, too.
  bool strict_minimum = false;
  bool open_vocabulary = false;  // words outside the lexicon are allowed, each at unk_score
  // The most of an unknown word's cost that is charged when it leaves the lexicon; the rest is when it
  // ends.
  double unknown_at_once = std::numeric_limits<double>::infinity();
  bool recombine = true;
  bool end_of_sentence = true;   // the language model scores the end of the sentence
  int n_best = 1;
  bool word_times = true;
};

struct Config {
  std::vector<Token> tokens;
  uint32_t blank = 0;
  Options options;
  const ngram::Model* ngram = nullptr;  // one of the two, or none
  // A user's own model; the words are those of the lexicon, by number.
  std::function<std::unique_ptr<LanguageModel>(const std::vector<std::string>&)> custom_lm;
  bool lm_over_tokens = false;
  const neural::Lstm* neural = nullptr;  // a model over tokens besides the other, or alone
  std::vector<int32_t> neural_labels;    // its number of each token
  std::vector<std::string> token_words;  // what each token is called in a model over tokens
  bool lexicon_from_lm = false;          // the words are the n-gram model's
  std::vector<std::string> lexicon;      // and these
  std::vector<std::pair<std::vector<std::string>, double>> hot_words;
};

struct WordResult {
  uint32_t begin, end;  // bytes of the text
  float start_frame, end_frame;
  float confidence;
};

struct Hypothesis {
  std::vector<int32_t> tokens;
  std::string text;
  std::vector<WordResult> words;
  double score = 0, ctc_score = 0, lm_score = 0;
};

struct Partial {
  Hypothesis best;
  size_t final_bytes = 0;  // this much of the text no later frame can change
};

// Frame `frame` of the emissions cannot be used.
class BadFrame : public std::runtime_error {
 public:
  BadFrame(int64_t frame, const std::string& what) : std::runtime_error(what), frame(frame) {}
  int64_t frame;
};

class Session;

class Decoder {
 public:
  explicit Decoder(const Config& config);
  ~Decoder();

  // ln P_ctc of the text that `tokens` write, exactly. (frames, C) logits.
  double ctc_score(const float* emissions, int64_t frames, const std::vector<uint32_t>& tokens) const;
  // ln of the best alignment of that text alone, and its class in each frame.
  double best_path(const float* emissions, int64_t frames, const std::vector<uint32_t>& tokens,
                   std::vector<uint32_t>& path) const;

  int num_tokens() const { return static_cast<int>(tokens_.size()); }
  size_t lexicon_size() const { return num_words_; }
  size_t words_skipped() const { return words_skipped_; }  // they have bytes that no token has
  const Options& options() const { return options_; }

  // A session with its memory of earlier language model scores, for reuse within this decoder.
  std::unique_ptr<Session> take() const;
  void give(std::unique_ptr<Session> session) const;

 private:
  friend class Session;
  void build_lexicon(const Config& config);
  std::vector<double> log_probs(const float* emissions, int64_t frames) const;
  Classes classes() const { return {tokens_.size(), blank_, spellings_->separators()}; }

  std::vector<Token> tokens_;
  uint32_t blank_;
  Options options_;
  // Some token begins a word. Otherwise all tokens are one word, but for a language model over tokens,
  // where each token is one.
  bool marked_words_ = false, tokens_are_words_ = false;
  bool open_ = false, use_recombination_ = false;
  bool keeps_frames_ = false;  // log-probabilities are kept, for word times and n-best lists
  std::unique_ptr<Spellings> spellings_;
  bool merges_texts_ = false;  // labellings of one text may be several prefixes
  enum Kind : uint8_t { kWithin, kBegins, kSeparates, kNever };  // what a token may do
  std::vector<uint8_t> kinds_;
  double threshold_;  // exp(-beam_threshold)
  float min_p_;       // exp(token_min_logp)
  std::vector<int16_t> plain_byte_;  // the byte of a token that is one and begins no word, else -1
  const ngram::Model* ngram_;
  std::function<std::unique_ptr<LanguageModel>()> custom_lm_;
  bool lm_over_tokens_;
  const neural::Lstm* neural_;
  std::vector<int32_t> neural_labels_;
  std::vector<ngram::WordIndex> lm_indices_;  // of the lexicon's words, or of the tokens
  std::unique_ptr<Trie> trie_;
  std::unique_ptr<HotWords> hot_;
  size_t num_words_ = 0, words_skipped_ = 0;
  double oov_enter_ = 1, oov_exit_ = 1;  // factors when a word leaves the lexicon, and at its end
  double gain_ = 1;                      // the most that a token within a word can multiply by
  double word_gain_ = 1;                 // the most that a word's end can, but for the look-ahead
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Session>> pool_;
};

// A prefix. One cache line.
struct Node {
  double pb, pnb;         // mass of alignments that end in a blank, in the token; scaled
  double next_pb, next_pnb;
  uint32_t parent;
  uint32_t trie;          // place in the lexicon, kOov outside
  uint32_t state;         // of Steps, after the last complete word (or token)
  uint32_t child, sibling;  // kNil ends the list
  uint32_t token;
  int32_t created, touched;  // frames
};

class Session {
 public:
  Session(const Decoder& decoder, size_t memory_limit);

  // Starts an utterance after the given words (their state of the language model is carried over).
  void begin(const std::vector<std::string>& context = {});
  // Takes (frames, C) logits or log-probabilities, rows `stride` apart. Throws BadFrame; the session
  // must then be begun anew.
  void accept(const float* emissions, int64_t frames, int64_t stride);
  std::vector<Hypothesis> finish();
  Partial partial();
  int64_t num_frames() const { return time_; }
  size_t bytes() const;

 private:
  static constexpr uint32_t kNil = 0xFFFFFFFFu, kOov = 0xFFFFFFFEu;
  struct Candidate {
    uint32_t token;
    double p;
  };
  struct Scored {
    double score;
    uint32_t node;
    uint32_t others = kNil;  // first in members_: prefixes of the same text in other tokens
  };
  struct Member {
    uint32_t node, next;
  };
  struct Slot {
    uint64_t key;
    uint32_t stamp, value;
  };
  struct Event {  // `loser` was recombined with a winner: going on from it costs `loss`
    int64_t order;  // when, see first_event_of()
    uint32_t loser;
    float loss;
  };
  struct Final {  // a way to end
    double score;                // ln of its mass in the last frame's scale, with its last word and </s>
    uint32_t node;               // the prefix that it goes on from
    uint64_t key;                // equal for equal texts
    std::vector<uint32_t> path;  // its prefixes, or those whose tokens it has, from the root
    std::string text;            // in an n-best list
  };

  // beam/frame.cpp
  void normalise(const float* row);
  std::vector<float> probabilities() const;

  // beam/search.cpp
  void frame(const float* row);
  void near_certain_blank();
  void search();
  void search_popcnt();
  void search_body();
  void extend_all(double& cut);
  void stay(const Node& node, double blank, double& pb, double& pnb) const;
  bool descend(uint8_t byte, double& w, uint32_t& trie);
  bool lead(const Node& from, uint32_t n, uint32_t token, double cut, double& w, uint32_t& trie,
            uint32_t& state);
  void add(uint32_t from, uint32_t token, uint32_t trie, uint32_t state, double w);
  bool close_word(const Node& node, uint32_t n, double cut, double& w, uint32_t& state);
  bool close_last(const Node& node, uint32_t n, double& w, uint32_t& state);
  void prune();

  // beam/recombine.cpp
  uint64_t text_after(uint32_t from, uint32_t token) const;
  uint64_t text_without_gap(uint32_t n) const;
  void select();
  void merge_texts();
  void gather(Scored& group, double cut);
  void keep(const Scored& current, size_t& kept);
  void recombine(Scored& place, const Scored& current);
  void start_slots(size_t keys);
  Slot& find_slot(uint64_t key);
  void drop(const Scored& scored);
  void record(uint32_t winner, uint32_t loser, double loss);
  void doubt(uint32_t winner, uint32_t loser, double ratio);
  bool in_gap(uint32_t n) const { return nodes_[n].trie == Trie::kRoot && nodes_[n].token != kNil; }
  uint64_t text_key(uint32_t n) const { return d_.merges_texts_ ? texts_[n] : n; }
  // Events of a frame come in an order; all have numbers from the frame's first on.
  static int64_t first_event_of(int32_t frame) { return int64_t{frame} << 32; }

  // beam/forgetting.cpp
  void commit();
  uint32_t common_ancestor() const;
  void compact();
  void compact_states();
  std::vector<TokenTime> align(std::vector<AlignedToken>& tokens, const std::vector<uint32_t>& path,
                               int32_t begin, int32_t end) const;
  bool best_times(std::vector<AlignedToken>& tokens, bool anchored, int32_t begin, int32_t end,
                  std::vector<TokenTime>& times) const;
  std::vector<TokenTime> times_of(const std::vector<uint32_t>& path, int32_t end) const;

  // beam/n_best.cpp
  void expand(std::vector<Final>& finals, size_t wanted) const;
  void rescore(std::vector<Final>& finals);

  // beam/hypotheses.cpp
  std::vector<Final> finals(bool whole);
  static void merge(std::vector<Final>& finals);
  // How a hypothesis ends: with a complete word and the sentence's end; within a word, which is left
  // out of it; or anywhere, with more to come.
  enum class Ending { kWhole, kCut, kOpen };
  Hypothesis describe(const Final& final, Ending ending);
  std::vector<uint32_t> trace(uint32_t node) const;
  void drop_partial_word(std::vector<uint32_t>& tokens) const;
  bool is_superfluous_last(uint32_t token) const;
  void write_words(const std::vector<uint32_t>& tokens, const std::vector<TokenTime>& times,
                   Hypothesis& out) const;
  std::string spelling(uint32_t node) const;
  double lm_parts(const std::vector<uint32_t>& tokens, bool whole, double& lm_score);

  const Decoder& d_;
  const bool lists_;  // more than one hypothesis is wanted
  Steps steps_;
  std::vector<Node> nodes_;
  std::vector<float> doubts_;    // of each node, for confidences
  std::vector<int32_t> entered_;  // frame in which most last came in, of each node, for n-best lists
  std::vector<uint64_t> texts_;  // hash of each node's text, where d_.merges_texts_
  std::vector<uint32_t> active_, next_;
  std::vector<uint32_t> asked_;  // states of those that go on
  std::vector<Scored> scored_;
  std::vector<Member> members_;
  std::vector<Candidate> begins_, candidates_;  // tokens to try: those that begin a word, the others
  std::vector<float> p_;                        // probabilities of this frame
  double separators_p_ = 0;                     // of all separators together
  double gap_p_ = 0, start_p_ = 0;  // that a prefix stays: one in a gap between words, the empty one
  double best_ = 0;
  double log_scale_ = 0;
  int32_t time_ = 0;
  bool dead_ = false;  // no prefix could emit a frame: nothing has a finite score
  uint32_t start_state_ = 0;
  uint32_t root_ = 0;  // where tracing ends: the start, or the last committed prefix

  std::vector<Slot> slots_;  // a hash table that a new stamp empties
  uint32_t stamp_ = 0;
  std::unordered_map<uint64_t, std::vector<Event>> events_;  // by text_key of the winner, for n-best
  int64_t event_order_ = 0;

  // The committed part: tokens that every prefix shares, with their times; the last one's end is open.
  std::vector<uint32_t> committed_;
  std::vector<TokenTime> committed_times_;
  uint32_t anchor_ = 0;         // the prefix committed last
  int32_t kept_from_ = 0;       // frame of the first row in logp_
  std::vector<float> logp_;     // (frames since kept_from_, C) log-probabilities
  size_t compact_at_ = 0;
  size_t memory_limit_;         // bytes for remembered scores of the language model
};

// An utterance to decode: a (frames, C) matrix with contiguous rows, and what came out.
struct Utterance {
  const float* emissions = nullptr;
  int64_t frames = 0;
  std::vector<std::string> context;
  std::vector<Hypothesis> hypotheses;
  int64_t bad_frame = -1;  // a frame that cannot be used, and what is wrong with it
  std::string error;
};
// On several threads. A bad utterance is marked and does not hinder the others; any other failure is
// thrown when all threads have ended.
void decode_batch(const Decoder& decoder, std::vector<Utterance>& utterances, int threads);

}  // namespace ctcspeech::beam
