// Estimation of interpolated modified Kneser-Ney models (Chen and Goodman 1998, section 3; out of
// core as in Heafield et al. 2013, "Scalable Modified Kneser-Ney Language Model Estimation").
//
//     Estimator e(options);
//     e.add_text(...); ...; e.finish_text();     // count
//     e.adjust();                                // adjusted counts, discounts
//     e.normalize();                             // discounted probabilities and back-off weights
//     e.write_arpa(path);                        // interpolate
//
// Every stage streams; what does not fit in options.memory goes to temporary files.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "ngram/estimate/sort.h"
#include "ngram/estimate/word_numbers.h"

namespace ctcspeech::ngram {

using Discounts = std::array<double, 4>;  // D_k for an adjusted count of k; [3] for 3 and more

struct EstimateOptions {
  int order = 3;
  std::vector<uint64_t> prune;  // for each order: n-grams met this often or less are left out
  bool has_fallback = false;    // discounts for an order whose counts give none
  Discounts fallback{0.0, 0.5, 1.0, 1.5};
  bool skip_symbols = false;    // drop <s>, </s>, <unk> in the text rather than refuse them
  uint64_t vocabulary_size = 0; // keep the most frequent words only; 0: all
  std::vector<std::string> vocabulary;  // keep these only
  bool has_vocabulary = false;
  size_t memory = size_t{1} << 30;
  std::string temp_folder = "/tmp";
};

struct OrderStatistics {
  uint64_t types = 0;       // n-grams met
  uint64_t kept = 0;        // of them not pruned
  std::array<uint64_t, 5> with_count{};  // [k]: how many have the adjusted count k, k = 1..4
  Discounts discounts{};
};

class Estimator {
 public:
  explicit Estimator(EstimateOptions options);
  ~Estimator();

  // Text: UTF-8, a sentence a line, words separated by blanks; in pieces of any size.
  void add_text(const char* data, size_t size);
  void finish_text();
  void adjust();
  void normalize();
  void write_arpa(const std::string& path);

  const std::vector<OrderStatistics>& statistics() const { return statistics_; }  // [order - 1]
  uint64_t sentences() const { return sentences_; }
  uint64_t tokens() const { return tokens_; }
  uint64_t bytes_on_disk() const { return bytes_on_disk_; }

  // For another thread while a stage runs.
  uint64_t records_done() const { return done_.load(std::memory_order_relaxed); }
  uint64_t records_total() const { return total_.load(std::memory_order_relaxed); }
  void cancel() { cancelled_.store(true); }

 private:
  struct Counts;  // the n-grams of the highest order met so far
  struct Adjuster;
  struct Interpolator;

  EstimateOptions options_;
  MemoryBudget budget_;
  WordTable words_;
  std::vector<uint64_t> word_counts_;  // how often each word was met
  std::vector<uint8_t> in_vocabulary_; // empty: all are
  std::string partial_line_;
  uint64_t sentences_ = 0, tokens_ = 0, bytes_on_disk_ = 0;
  size_t charged_for_words_ = 0;
  std::unique_ptr<Counts> counts_;
  std::unique_ptr<RecordSorter> full_order_;
  std::vector<OrderStatistics> statistics_;
  std::vector<uint64_t> unigram_counts_;  // adjusted
  // [order - 1], order >= 2. N-grams are kept with their words in reverse, the last one first.
  std::vector<std::unique_ptr<RecordSorter>> by_context_;  // r1 .. r(n-1), r0; adjusted count
  std::vector<std::unique_ptr<RecordSorter>> by_suffix_;   // r0 .. r(n-1); Discounted
  std::vector<std::unique_ptr<RecordSorter>> backoffs_;    // of contexts with n words; their gamma
  std::vector<float> unigram_probability_;
  std::atomic<uint64_t> done_{0}, total_{0};
  std::atomic<bool> cancelled_{false};

  void add_line(std::string_view line);
  void add_ngram(const uint32_t* reversed, uint64_t count);
  void charge_words();
  void limit_vocabulary();
  void estimate_discounts(int order);
  void normalize_unigrams();
  void normalize_order(int order);
  void start_stage(uint64_t total);
  void step();
};

}  // namespace ctcspeech::ngram
