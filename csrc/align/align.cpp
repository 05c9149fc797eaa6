#include "align/align.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>
#include <vector>

#include "align/align_table.h"
#include "base/cpu.h"

namespace ctcspeech {

namespace {

constexpr int64_t kShortestInterval = 8;
constexpr int64_t kCheckpointBytes = int64_t{128} << 20;
constexpr int64_t kRescaleEvery = 32;  // frames between subtractions of the row's maximum

AlignFunctions<float> functions_of(const AlignTable& table, float) { return table.float32; }
AlignFunctions<double> functions_of(const AlignTable& table, double) { return table.float64; }

// For so many classes.
template <class S>
AlignFunctions<S> functions_for(int isa, int64_t classes) {
  AlignFunctions<S> functions = functions_of(CTCSPEECH_BY_ISA(align, isa), S());
  if (functions.few_step && classes + 2 <= kFewClasses) functions.step = functions.few_step;
  return functions;
}

template <class S>
class Aligner {
 public:
  Aligner(const AlignProblem<S>& problem, int32_t* states, S* log_probs, int isa)
      : p_(problem),
        states_(states),
        log_probs_(log_probs),
        functions_(functions_for<S>(isa, problem.classes)),
        width_(problem.num_labels + 1) {}

  AlignStatus run(double* score) {
    AlignStatus status = measure_frames();
    if (status != AlignStatus::kOk) return status;
    prepare();
    status = forward();
    if (status != AlignStatus::kOk) return status;
    int64_t state = end_state();
    if (state < 0) return AlignStatus::kInfeasible;
    for (int64_t block = num_blocks_ - 1; block >= 0; --block) state = trace_back(block, state);
    sum_up(score);
    return AlignStatus::kOk;
  }

 private:
  static constexpr S kNone = -std::numeric_limits<S>::infinity();

  const AlignProblem<S>& p_;
  int32_t* states_;
  S* log_probs_;
  const AlignFunctions<S> functions_;
  std::vector<S> best_;             // each frame's largest score
  std::vector<double> log_sum_;     // ln of the sum of exp(score - largest)
  const int64_t width_;             // L + 1 pairs (B[j], A[j]); A[L] is never entered
  std::vector<int32_t> classes_;    // of label j; C for a wildcard
  std::vector<S> skip_;             // 0 or -inf
  std::vector<S> scores_;           // this frame's scores, the wildcard's at [C], "none" at [C + 1]
  std::vector<S> rows_;             // two rows of the forward pass
  std::vector<S> checkpoints_;      // the row before each interval but the first
  std::vector<S> window_;           // two rows of the way back
  std::vector<uint8_t> came_from_;  // of the way back: 0 stayed, 1 from the state before, 2 skipped
  int64_t interval_ = 0, num_blocks_ = 0;

  int64_t row_size() const { return 2 * (width_ + 1); }

  // A row of memory: [-inf][A 0..L][-inf][B 0..L], so that A[-1] can be read.
  AlignRow<S> row(S* memory) const { return {memory + width_ + 1, memory + 1}; }

  void prepare() {
    const int64_t L = p_.num_labels;
    classes_.resize(width_);
    skip_.assign(width_, kNone);
    for (int64_t j = 0; j < L; ++j) {
      const bool wild = p_.labels[j] == kWildcard;
      classes_[j] = static_cast<int32_t>(wild ? p_.classes : p_.labels[j]);
      if (j > 0 && (wild || p_.labels[j] != p_.labels[j - 1])) skip_[j] = 0;
    }
    classes_[L] = static_cast<int32_t>(p_.classes + 1);
    scores_.resize(std::max(p_.classes + 2, kFewClasses));
    scores_[p_.classes] = p_.wildcard_score;
    scores_[p_.classes + 1] = kNone;
    const int64_t bytes_a_row = row_size() * static_cast<int64_t>(sizeof(S));
    const int64_t wanted = p_.frames * bytes_a_row / kCheckpointBytes + 1;
    interval_ = std::max(kShortestInterval, wanted);
    num_blocks_ = (p_.frames + interval_ - 1) / interval_;
    checkpoints_.resize(std::max<int64_t>(num_blocks_ - 1, 0) * row_size());
    rows_.assign(2 * row_size(), kNone);
    const int64_t reach = 2 * interval_ + 1;  // states from which an interval's end can be reached
    window_.resize(2 * (reach + 2));
    came_from_.resize(interval_ * reach);
  }

  // First and last label index whose states frame t can hold: those that can be reached from the
  // start, can still reach the end, and lie in the band.
  int64_t first_at(int64_t t) const {
    const int64_t j = std::max<int64_t>(0, p_.num_labels - (p_.frames - t));
    return p_.band < 0 ? j : std::max(j, std::min(centre(t) - p_.band, p_.num_labels));
  }
  int64_t last_at(int64_t t) const {
    const int64_t j = std::min(p_.num_labels, t + 1);
    return p_.band < 0 ? j : std::min(j, std::max<int64_t>(centre(t) + p_.band, 0));
  }
  int64_t centre(int64_t t) const {
    return static_cast<int64_t>(static_cast<double>(t) * static_cast<double>(p_.num_labels) /
                                static_cast<double>(std::max<int64_t>(p_.frames - 1, 1)));
  }

  // The largest score of each frame and its log-sum; refuses NaN, +inf and frames of -inf alone.
  AlignStatus measure_frames() {
    best_.resize(p_.frames);
    log_sum_.resize(p_.frames);
    for (int64_t t = 0; t < p_.frames; ++t) {
      const FrameNorm norm = functions_.norm(p_.emissions + t * p_.frame_stride, p_.classes);
      if (norm.has_nan || norm.best == std::numeric_limits<double>::infinity())
        return AlignStatus::kNan;
      if (norm.best == -std::numeric_limits<double>::infinity()) return AlignStatus::kInfeasible;
      best_[t] = static_cast<S>(norm.best);
      log_sum_[t] = norm.log_sum;
    }
    return AlignStatus::kOk;
  }

  // The frame's scores relative to its best class.
  void read_frame(int64_t t) {
    const S* x = p_.emissions + t * p_.frame_stride;
    const S best = best_[t];
    S* scores = scores_.data();
    for (int64_t c = 0; c < p_.classes; ++c) scores[c] = x[c] - best;
  }

  AlignStatus forward() {
    for (int64_t t = 0; t < p_.frames; ++t) {
      const AlignRow<S> from = row(&rows_[((t + 1) & 1) * row_size()]);
      const AlignRow<S> to = row(&rows_[(t & 1) * row_size()]);
      const int64_t first = first_at(t), last = last_at(t);
      if (first > last) return AlignStatus::kInfeasible;
      read_frame(t);
      if (t == 0) {
        if (first == 0) to.blanks[0] = scores_[p_.blank], to.labels[0] = scores_[classes_[0]];
        continue;
      }
      if (t % interval_ == 0) {
        const S* source = &rows_[((t + 1) & 1) * row_size()];
        std::copy(source, source + row_size(), &checkpoints_[(t / interval_ - 1) * row_size()]);
      }
      clear_outside(from, t - 1, first, last);
      functions_.step(from, to, classes_.data(), skip_.data(), scores_.data(), scores_[p_.blank],
                    first, last);
      if (t % kRescaleEvery == 0) rescale(to, first, last);
    }
    return AlignStatus::kOk;
  }

  // The step into [first, last] reads columns first-1..last of the row before; those that row did not
  // compute hold values of two frames ago.
  void clear_outside(const AlignRow<S>& from, int64_t t, int64_t first, int64_t last) const {
    const int64_t known_first = first_at(t), known_last = last_at(t);
    for (int64_t j = known_last + 1; j <= last; ++j) from.blanks[j] = from.labels[j] = kNone;
    for (int64_t j = std::max<int64_t>(first - 1, 0); j < known_first; ++j)
      from.blanks[j] = from.labels[j] = kNone;
  }

  // Keeps the values small, so that float32 stays exact enough over hours; all of a row moves alike.
  void rescale(const AlignRow<S>& r, int64_t first, int64_t last) const {
    S best = kNone;
    for (int64_t j = first; j <= last; ++j) {
      best = r.blanks[j] > best ? r.blanks[j] : best;
      best = r.labels[j] > best ? r.labels[j] : best;
    }
    if (best == kNone) return;
    for (int64_t j = first; j <= last; ++j) r.blanks[j] -= best, r.labels[j] -= best;
  }

  int64_t end_state() const {
    const int64_t L = p_.num_labels;
    const S* memory = &rows_[((p_.frames - 1) & 1) * row_size()];
    const S in_blank = memory[width_ + 1 + L];
    const S in_label = L > 0 && first_at(p_.frames - 1) < L ? memory[L] : kNone;
    const bool blank_known = last_at(p_.frames - 1) == L;
    if (blank_known && in_blank != kNone && in_blank >= in_label) return 2 * L;
    return in_label != kNone ? 2 * L - 1 : -1;
  }

  // The path through frames [block * interval, ...) given its state at the last of them; returns the
  // state at the frame before.
  int64_t trace_back(int64_t block, int64_t state) {
    const int64_t t0 = block * interval_, t1 = std::min(p_.frames, t0 + interval_);
    const int64_t reach = 2 * interval_ + 1;
    const int64_t lowest = std::max<int64_t>(0, state - 2 * (t1 - t0));  // at frame t0 - 1
    const int64_t size = state - lowest + 1;
    S* previous = &window_[2];  // two cells of -inf stand before each row
    S* current = &window_[reach + 4];
    std::fill(window_.begin(), window_.end(), kNone);
    if (block > 0) load_checkpoint(block - 1, t0 - 1, lowest, size, previous);
    for (int64_t t = t0; t < t1; ++t) {
      read_frame(t);
      uint8_t* from = &came_from_[(t - t0) * reach];
      const int64_t low = 2 * first_at(t), high = 2 * last_at(t) + 1;
      const int64_t needed = std::max<int64_t>(0, state - 2 * (t1 - 1 - t) - lowest);
      for (int64_t i = needed; i < size; ++i) {
        const int64_t s = lowest + i;
        if (s < low || s > high) {
          current[i] = kNone;
          continue;
        }
        if (t == 0) {
          current[i] = s <= 1 ? score_of(s) : kNone;
          continue;
        }
        S best = previous[i];
        uint8_t step = 0;
        if (previous[i - 1] > best) best = previous[i - 1], step = 1;
        if ((s & 1) && previous[i - 2] + skip_[s >> 1] > best) best = previous[i - 2], step = 2;
        current[i] = best + score_of(s);
        from[i] = step;
      }
      std::swap(previous, current);
    }
    for (int64_t t = t1 - 1; t >= t0; --t) {
      states_[t] = static_cast<int32_t>(state);
      if (t > 0) state -= came_from_[(t - t0) * reach + state - lowest];
    }
    return state;
  }

  S score_of(int64_t state) const {
    return (state & 1) ? scores_[classes_[state >> 1]] : scores_[p_.blank];
  }

  void load_checkpoint(int64_t index, int64_t t, int64_t lowest, int64_t size, S* to) {
    const AlignRow<S> r = row(&checkpoints_[index * row_size()]);
    const int64_t low = 2 * first_at(t), high = 2 * last_at(t) + 1;
    for (int64_t i = 0; i < size; ++i) {
      const int64_t s = lowest + i;
      if (s >= low && s <= high) to[i] = (s & 1) ? r.labels[s >> 1] : r.blanks[s >> 1];
    }
  }

  // The log-probability (log-softmax) of the path's class at each frame.
  void sum_up(double* score) {
    double sum = 0;
    for (int64_t t = 0; t < p_.frames; ++t) {
      const S* x = p_.emissions + t * p_.frame_stride;
      const int64_t s = states_[t];
      const int64_t c = (s & 1) ? classes_[s >> 1] : p_.blank;
      const S relative = c == p_.classes ? p_.wildcard_score : x[c] - best_[t];
      const double log_prob = static_cast<double>(relative) - log_sum_[t];
      log_probs_[t] = static_cast<S>(log_prob);
      sum += log_prob;
    }
    *score = sum;
  }
};

}  // namespace

template <class S>
AlignStatus align(const AlignProblem<S>& problem, int32_t* states, S* log_probs, double* score,
                  int isa) {
  if (problem.frames == 0) {
    *score = 0;
    return problem.num_labels == 0 ? AlignStatus::kOk : AlignStatus::kInfeasible;
  }
  try {
    return Aligner<S>(problem, states, log_probs, isa).run(score);
  } catch (const std::bad_alloc&) {
    return AlignStatus::kNoMemory;
  }
}

template AlignStatus align<float>(const AlignProblem<float>&, int32_t*, float*, double*, int);
template AlignStatus align<double>(const AlignProblem<double>&, int32_t*, double*, double*, int);

}  // namespace ctcspeech
