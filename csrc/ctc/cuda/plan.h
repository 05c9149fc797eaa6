// What the kernels of ctc/cuda/lattice.h work on: the batch as they see it, the layout of the workspace, and how
// many blocks, threads and bytes of shared memory each kernel gets. All of it follows from sizes that the
// host knows, never from lengths, which may be on the device.
#pragma once

#include <algorithm>
#include <cstdint>

#include "ctc/cuda/number.h"
#include "ctc/utterance.h"

namespace ctcspeech {
namespace {

// alpha or beta of label position j at one frame: blank j, and label j.
template <class Real>
struct alignas(16) Pair {
  Extended<Real> b, a;
};

// exp(x - high) inverse is the softmax of a frame. NaN if the frame holds NaN or +infinity.
template <class Real>
struct FrameStats {
  Real high, inverse;
};

// An utterance is open until its loss is known: settled from the start by its lengths and labels alone
// (impossible, or wrong, or without frames), else by the forward recursion.
struct UtteranceState {
  int64_t T, L;
  double loss;    // NaN while open and for a wrong utterance
  double weight;  // of the gradient
  int32_t width;  // distinct classes among the blank and the labels
  int32_t wildcards;
  int32_t open;
};

template <class Real>
struct Batch {
  using Number = Extended<Real>;

  // The caller's. Integers are int32 or int64, emissions of the type named.
  const void* logits;
  const void* targets;
  const void* input_lengths;
  const void* target_lengths;
  int32_t type, index_type;
  int64_t frames, batch, classes, frame_stride, batch_stride;
  int64_t target_stride, max_target_length, blank;
  double wildcard_penalty, delay_penalty;
  bool allow_wildcard, zero_infinity;
  int32_t reduction;
  Real* losses;
  Real* reduced;
  void* gradient;
  int64_t gradient_frame_stride, gradient_batch_stride;
  int32_t* arithmetic;

  // Upper bounds: labels of an open utterance, and distinct classes among them with the blank.
  int64_t longest, width;
  // The way back is cut into segments of so many frames, at whose seams alpha and beta are kept.
  int64_t segment, segments;
  bool compact;  // the scores of an utterance's own classes stand together in `scores`

  // Workspace. Utterance n has its part of each at n times the bound.
  UtteranceState* states;
  Number* totals;              // (N) Z
  int32_t* labels;             // (N, longest)
  int32_t* firsts;             // (N, longest) 1 where no earlier label is the same
  int32_t* places;             // (N, longest) which of the distinct classes; the blank is place 0
  int32_t* order;              // (N, longest) label positions sorted by class
  int32_t* starts;             // (N, width) where in `order` the positions of place 1, 2, ... begin
  int32_t* own_classes;        // (N, width) the class at each place, -1 for the wildcard
  FrameStats<Real>* stats;     // (N, T)
  void* scores;                // (N, T, width) of the logits' type, rows of the item's own width
  Pair<Real>* alpha_seams;     // (N, segments, longest + 1): alpha before the segment's first frame
  Pair<Real>* beta_seams;      // (N, segments, longest + 1): beta at its last
  char* chain_scratch;         // where shared memory is too small
  char* segment_scratch;
  size_t chain_scratch_bytes, segment_scratch_bytes;  // of one block
  int chunk;                   // frames whose emissions a chain has at hand at a time

  CTC_SHARED int64_t positions() const { return longest + 1; }
};

constexpr int kWarp = 32;
constexpr int kMostThreads = 1024;
constexpr int kHeld = 4;  // scores that each thread of a chain loads ahead
constexpr size_t kSharedAlways = 48 * 1024;

// Blocks, threads and shared memory of the kernels.
struct Launch {
  int64_t blocks;
  int threads;
  size_t shared;
};

inline size_t rounded(size_t bytes) { return (bytes + 15) & ~size_t{15}; }

// Scratch of one block of each kernel, in this order; shared by the kernels and the plan.
template <class Real>
struct ChainScratch {
  Pair<Real>* rows[2];
  Extended<Real>* emissions;  // (chunk, width)
  size_t bytes;

  CTC_SHARED ChainScratch(char* memory, int64_t positions, int64_t chunk, int64_t width) {
    const size_t row = static_cast<size_t>(positions) * sizeof(Pair<Real>);
    rows[0] = reinterpret_cast<Pair<Real>*>(memory);
    rows[1] = reinterpret_cast<Pair<Real>*>(memory + row);
    emissions = reinterpret_cast<Extended<Real>*>(memory + 2 * row);
    bytes = 2 * row + static_cast<size_t>(chunk * width) * sizeof(Extended<Real>);
  }
};

template <class Real>
struct SegmentScratch {
  Pair<Real>* rows[2];
  Pair<Real>* alpha;          // (segment, positions)
  Extended<Real>* emissions;  // (segment, width)
  Real* sums;                 // (segment, width) of gamma, by place
  Real* totals;               // (segment)
  size_t bytes;

  CTC_SHARED SegmentScratch(char* memory, int64_t positions, int64_t segment, int64_t width) {
    const size_t row = static_cast<size_t>(positions) * sizeof(Pair<Real>);
    const size_t table = static_cast<size_t>(segment * width);
    rows[0] = reinterpret_cast<Pair<Real>*>(memory);
    rows[1] = reinterpret_cast<Pair<Real>*>(memory + row);
    alpha = reinterpret_cast<Pair<Real>*>(memory + 2 * row);
    char* after = memory + static_cast<size_t>(segment + 2) * row;
    emissions = reinterpret_cast<Extended<Real>*>(after);
    sums = reinterpret_cast<Real*>(after + table * sizeof(Extended<Real>));
    totals = sums + table;
    bytes = static_cast<size_t>(segment + 2) * row +
            table * (sizeof(Extended<Real>) + sizeof(Real)) +
            static_cast<size_t>(segment) * sizeof(Real);
  }
};

template <class Real>
struct Plan {
  Batch<Real> batch;
  Launch labels, rows, chains, segments, finish;
  int team;  // threads a frame in `rows`
  size_t workspace_bytes;

  // shared_limit: bytes of shared memory that one block can have on the device.
  Plan(const ctcspeech_ctc_input& in, const ctcspeech_ctc_output& out, int64_t longest_target,
       size_t shared_limit, void* workspace) {
    take_over(in, out);
    Batch<Real>& b = batch;
    b.longest = std::min(b.frames, b.max_target_length);
    if (longest_target > 0) b.longest = std::min(b.longest, longest_target);
    b.width = 1 + std::min(b.longest, b.classes - 1 + (b.allow_wildcard ? 1 : 0));
    b.compact = b.classes > 64;  // else the whole row is but a few cache lines
    cut_into_segments(shared_limit);
    plan_launches(shared_limit);
    lay_out(workspace);
  }

 private:
  void take_over(const ctcspeech_ctc_input& in, const ctcspeech_ctc_output& out) {
    Batch<Real>& b = batch;
    b = {};
    b.logits = in.logits;
    b.targets = in.targets;
    b.input_lengths = in.input_lengths;
    b.target_lengths = in.target_lengths;
    b.type = in.type;
    b.index_type = in.index_type;
    b.frames = in.frames;
    b.batch = in.batch;
    b.classes = in.classes;
    b.frame_stride = in.frame_stride;
    b.batch_stride = in.batch_stride;
    b.target_stride = in.target_stride;
    b.max_target_length = in.max_target_length;
    b.blank = in.blank;
    b.wildcard_penalty = in.wildcard_penalty;
    b.delay_penalty = in.delay_penalty;
    b.allow_wildcard = in.allow_wildcard != 0;
    b.zero_infinity = out.zero_infinity != 0;
    b.reduction = out.reduction;
    b.losses = static_cast<Real*>(out.losses);
    b.reduced = static_cast<Real*>(out.reduced);
    b.gradient = out.gradient;
    b.gradient_frame_stride = out.gradient_frame_stride;
    b.gradient_batch_stride = out.gradient_batch_stride;
    b.arithmetic = out.arithmetic;
  }

  size_t segment_bytes(int64_t K) const {
    return SegmentScratch<Real>(nullptr, batch.positions(), K, batch.width).bytes;
  }

  // The most frames, up to `most`, that a segment can have within so many bytes.
  int64_t segment_within(size_t bytes, int64_t most) const {
    while (most > 0 && segment_bytes(most) > bytes) --most;
    return most;
  }

  // A segment's alpha lives in shared memory if at least a few frames fit, else in the workspace, where
  // segments of about sqrt(T) frames take the least memory.
  void cut_into_segments(size_t shared_limit) {
    Batch<Real>& b = batch;
    int64_t K = segment_within(std::min(kSharedAlways, shared_limit), 32);
    if (K < 8) K = std::max(K, segment_within(shared_limit, 16));
    segment_in_shared = K >= 4;
    if (!segment_in_shared) {
      K = 16;
      while (K * K < b.frames) K *= 2;
    }
    b.segment = std::max<int64_t>(1, std::min(K, b.frames));
    b.segments = b.gradient ? (b.frames + b.segment - 1) / b.segment : 0;
  }

  static int threads_for(int64_t positions) {
    const int64_t whole = (positions + kWarp - 1) / kWarp * kWarp;
    return static_cast<int>(std::min<int64_t>(whole, kMostThreads));
  }

  void plan_launches(size_t shared_limit) {
    Batch<Real>& b = batch;
    constexpr int64_t kMostBlocks = 1 << 20;  // each block goes on to its next piece of work
    const auto blocks = [=](int64_t work) { return work < kMostBlocks ? work : kMostBlocks; };
    const int threads = threads_for(b.positions());
    labels = {blocks(b.batch), 256, 0};

    team = b.classes <= 1024 ? kWarp : 256;
    rows = {blocks((b.batch * b.frames + 256 / team - 1) / (256 / team)), 256, 0};

    b.chunk = static_cast<int>(
        std::max<int64_t>(1, std::min<int64_t>(32, int64_t{kHeld} * threads / b.width)));
    const size_t chain = ChainScratch<Real>(nullptr, b.positions(), b.chunk, b.width).bytes;
    const bool chain_in_shared = chain <= shared_limit;
    chains = {blocks(b.batch * (b.gradient ? 2 : 1)), threads, chain_in_shared ? chain : 0};
    b.chain_scratch_bytes = chain_in_shared ? 0 : rounded(chain);

    const size_t piece = segment_bytes(b.segment);
    segments = {blocks(b.batch * b.segments), threads, segment_in_shared ? piece : 0};
    b.segment_scratch_bytes = segment_in_shared ? 0 : rounded(piece);
    if (!segment_in_shared) {  // as many at a time as modest memory allows
      constexpr size_t kModest = size_t{128} << 20;
      const auto slots = std::max<int64_t>(1, static_cast<int64_t>(kModest / rounded(piece)));
      segments.blocks = std::min(segments.blocks, slots);
    }
    finish = {1, 256, 0};
  }

  void lay_out(void* workspace) {
    Batch<Real>& b = batch;
    const int64_t N = b.batch, seams = N * b.segments * b.positions();
    Arena arena(workspace);
    b.states = arena.take<UtteranceState>(N);
    b.totals = arena.take<Extended<Real>>(N);
    b.labels = arena.take<int32_t>(N * b.longest);
    b.firsts = arena.take<int32_t>(N * b.longest);
    b.places = arena.take<int32_t>(N * b.longest);
    b.order = arena.take<int32_t>(N * b.longest);
    b.starts = arena.take<int32_t>(N * b.width);
    b.own_classes = arena.take<int32_t>(N * b.width);
    b.stats = arena.take<FrameStats<Real>>(N * b.frames);
    const int64_t size = b.type == CTCSPEECH_FLOAT64 ? 8 : b.type == CTCSPEECH_FLOAT32 ? 4 : 2;
    b.scores = arena.take<char>(b.compact ? N * b.frames * b.width * size : 0);
    b.alpha_seams = arena.take<Pair<Real>>(seams);
    b.beta_seams = arena.take<Pair<Real>>(seams);
    b.chain_scratch =
        arena.take<char>(chains.blocks * static_cast<int64_t>(b.chain_scratch_bytes));
    b.segment_scratch =
        arena.take<char>(segments.blocks * static_cast<int64_t>(b.segment_scratch_bytes));
    workspace_bytes = arena.used();
  }

  bool segment_in_shared;
};

}  // namespace
}  // namespace ctcspeech
