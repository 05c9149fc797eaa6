// The C interface of the CTC loss on the CPU: checks, workspace, and the batch over threads.
#include "ctc/ctc.h"

#include <algorithm>

#include "base/arena.h"
#include "base/cpu.h"
#include "base/parallel.h"
#include "ctc/cpu/fast_loss_table.h"
#include "ctc/cuda/cuda_loss.h"
#include "ctc/utterance.h"

namespace ctcspeech {
namespace {

FastResult solve(const FastPath& path, const Utterance<float>& u, void* memory, int arithmetic) {
  return path.float32(u, memory, arithmetic);
}
FastResult solve(const FastPath& path, const Utterance<double>& u, void* memory, int arithmetic) {
  return path.float64(u, memory, arithmetic);
}
FastResult solve(const FastPath& path, const Utterance<Half>& u, void* memory, int arithmetic) {
  return path.float16(u, memory, arithmetic);
}
FastResult solve(const FastPath& path, const Utterance<BFloat16>& u, void* memory, int arithmetic) {
  return path.bfloat16(u, memory, arithmetic);
}

int64_t read_index(const void* array, int32_t type, int64_t i) {
  return type == CTCSPEECH_INT32 ? static_cast<const int32_t*>(array)[i]
                                 : static_cast<const int64_t*>(array)[i];
}

struct UtteranceShape {
  int64_t n, T, L, first_label;
};

// Length and place of utterance n. `concatenated` is where its labels begin if they are concatenated.
UtteranceShape shape_of(const ctcspeech_ctc_input& in, int64_t n, int64_t concatenated) {
  UtteranceShape item;
  item.n = n;
  item.T = read_index(in.input_lengths, in.index_type, n);
  item.L = read_index(in.target_lengths, in.index_type, n);
  item.first_label =
      in.target_stride == CTCSPEECH_CONCATENATED ? concatenated : n * in.target_stride;
  return item;
}

ctcspeech_status check_sizes(const ctcspeech_ctc_input& in) {
  const bool floating = in.type == CTCSPEECH_FLOAT32 || in.type == CTCSPEECH_FLOAT64 ||
                        in.type == CTCSPEECH_FLOAT16 || in.type == CTCSPEECH_BFLOAT16;
  const bool integer = in.index_type == CTCSPEECH_INT32 || in.index_type == CTCSPEECH_INT64;
  if (!floating || !integer || in.frames < 0 || in.batch < 0 || in.classes < 1 ||
      in.classes > std::numeric_limits<int32_t>::max() || in.max_target_length < 0 ||
      in.target_stride < CTCSPEECH_CONCATENATED || std::isnan(in.wildcard_penalty) ||
      !std::isfinite(in.delay_penalty))
    return CTCSPEECH_BAD_ARGUMENT;
  if (in.batch > 0 && (!in.input_lengths || !in.target_lengths)) return CTCSPEECH_BAD_ARGUMENT;
  if (in.batch > 0 && in.frames > 0 && !in.logits) return CTCSPEECH_BAD_ARGUMENT;
  if (in.blank < 0 || in.blank >= in.classes) return CTCSPEECH_BAD_BLANK;
  return CTCSPEECH_OK;
}

ctcspeech_status check_where(const ctcspeech_ctc_where& where) {
  if (where.device != CTCSPEECH_CPU) return CTCSPEECH_NO_DEVICE;
  if (where.arithmetic < 0 || where.arithmetic > kLogSpace) return CTCSPEECH_BAD_ARGUMENT;
  if (where.isa >= 0 && !isa_available(static_cast<Isa>(where.isa))) return CTCSPEECH_NO_ISA;
  return CTCSPEECH_OK;
}

#ifdef CTCSPEECH_CUDA
// On the GPU lengths and labels may be on the device: the kernels look at them.
ctcspeech_status check_cuda(const ctcspeech_ctc_input& in, const ctcspeech_ctc_output& out) {
  if (const auto status = check_sizes(in)) return status;
  if (in.batch > 0 && in.max_target_length > 0 && !in.targets) return CTCSPEECH_BAD_ARGUMENT;
  if (out.reduction < CTCSPEECH_NONE || out.reduction > CTCSPEECH_MEAN) return CTCSPEECH_BAD_ARGUMENT;
  return CTCSPEECH_OK;
}
#endif

ctcspeech_status check_item(const ctcspeech_ctc_input& in, const UtteranceShape& item, int64_t* position) {
  if (item.T < 0 || item.T > in.frames) return CTCSPEECH_BAD_INPUT_LENGTH;
  const bool concatenated = in.target_stride == CTCSPEECH_CONCATENATED;
  if (item.L < 0 || (!concatenated && item.L > in.max_target_length))
    return CTCSPEECH_BAD_TARGET_LENGTH;
  if (concatenated && item.L > in.max_target_length - item.first_label)
    return CTCSPEECH_BAD_TARGET_SUM;
  if (item.L > 0 && !in.targets) return CTCSPEECH_BAD_ARGUMENT;
  for (int64_t j = 0; j < item.L; ++j) {
    const int64_t label = read_index(in.targets, in.index_type, item.first_label + j);
    *position = j;
    if (in.allow_wildcard && label == CTCSPEECH_WILDCARD) continue;
    if (label < 0 || label >= in.classes) return CTCSPEECH_BAD_LABEL;
    if (label == in.blank) return CTCSPEECH_LABEL_IS_BLANK;
  }
  *position = 0;
  return CTCSPEECH_OK;
}

// The parts of the workspace: what the batch needs, then a piece for each worker.
struct BatchMemory {
  UtteranceShape* shapes;      // longest first
  int32_t* labels;  // of every utterance, one after the other
  double* losses;
  int workers;
  char* scratch;
  size_t scratch_bytes, total_bytes;

  BatchMemory(const ctcspeech_ctc_input& in, bool with_gradient, const ctcspeech_ctc_where& where,
       void* block) {
    const FastPath path = CTCSPEECH_BY_ISA(ctc, where.isa);
    const auto utterance_workspace =
        in.type == CTCSPEECH_FLOAT64 ? path.workspace64 : path.workspace;
    int64_t concatenated = 0;
    scratch_bytes = 64;
    for (int64_t n = 0; n < in.batch; ++n) {
      const UtteranceShape item = shape_of(in, n, concatenated);
      concatenated += item.L;
      scratch_bytes =
          std::max(scratch_bytes, utterance_workspace(item.T, in.classes, item.L, with_gradient));
    }
    workers = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(where.threads, in.batch)));
    Arena arena(block);
    shapes = arena.take<UtteranceShape>(in.batch);
    labels = arena.take<int32_t>(concatenated);
    losses = arena.take<double>(in.batch);
    scratch = arena.take<char>(static_cast<int64_t>(scratch_bytes) * workers);
    total_bytes = arena.used();
  }
};

double gradient_weight(int32_t reduction, int64_t batch, int64_t L) {
  if (reduction != CTCSPEECH_MEAN) return 1;
  return 1 / (static_cast<double>(batch) * static_cast<double>(std::max<int64_t>(1, L)));
}

template <class Element>
Element* at(void* array, int64_t offset) {
  return array ? static_cast<Element*>(array) + offset : nullptr;
}

template <class Element>
Utterance<Element> get_utterance(const ctcspeech_ctc_input& in, const UtteranceShape& item,
                                 const int32_t* labels) {
  Utterance<Element> u{};
  u.logits = static_cast<const Element*>(in.logits) + item.n * in.batch_stride;
  u.frame_stride = in.frame_stride;
  u.T = item.T;
  u.C = in.classes;
  u.L = item.L;
  u.blank = in.blank;
  u.labels = labels;
  u.weight = 1;
  u.terms = {in.wildcard_penalty, in.delay_penalty};
  return u;
}

template <class Element>
void zero_padding(const ctcspeech_ctc_input& in, const Utterance<Element>& u) {
  for (int64_t t = u.T; t < in.frames; ++t)
    std::memset(static_cast<void*>(u.gradient + t * u.gradient_frame_stride), 0,
                static_cast<size_t>(in.classes) * sizeof(Element));
}

// Copies labels and lengths first: the caller may change them while and after we compute.
void read_labels(const ctcspeech_ctc_input& in, const BatchMemory& memory) {
  int64_t concatenated = 0;
  for (int64_t n = 0; n < in.batch; ++n) {
    UtteranceShape item = shape_of(in, n, concatenated);
    for (int64_t j = 0; j < item.L; ++j)
      memory.labels[concatenated + j] =
          static_cast<int32_t>(read_index(in.targets, in.index_type, item.first_label + j));
    item.first_label = concatenated;
    concatenated += item.L;
    memory.shapes[n] = item;
  }
  if (memory.workers > 1)  // dynamic handing out works best with the longest first
    std::sort(memory.shapes, memory.shapes + in.batch, [](const UtteranceShape& a, const UtteranceShape& b) {
      const double work_a = static_cast<double>(a.T) * static_cast<double>(a.L + 8);
      const double work_b = static_cast<double>(b.T) * static_cast<double>(b.L + 8);
      return work_a != work_b ? work_a > work_b : a.n < b.n;
    });
}

template <class Element>
void compute_batch(const ctcspeech_ctc_input& in, const ctcspeech_ctc_output& out,
                   const ctcspeech_ctc_where& where, const BatchMemory& memory) {
  const FastPath path = CTCSPEECH_BY_ISA(ctc, where.isa);
  parallel_for(in.batch, memory.workers, [&](int64_t i, int worker) {
    const UtteranceShape& item = memory.shapes[i];
    auto u = get_utterance<Element>(in, item, memory.labels + item.first_label);
    u.gradient = at<Element>(out.gradient, item.n * out.gradient_batch_stride);
    u.gradient_frame_stride = out.gradient_frame_stride;
    u.weight = gradient_weight(out.reduction, in.batch, item.L);
    const auto result =
        solve(path, u, memory.scratch + memory.scratch_bytes * worker, where.arithmetic);
    const bool drop = out.zero_infinity && result.loss == kInfinity;
    memory.losses[item.n] = drop ? 0 : result.loss;
    if (out.arithmetic) out.arithmetic[item.n] = result.arithmetic;
    if (u.gradient) zero_padding(in, u);
  });
}

template <class Real>
void write_losses(const ctcspeech_ctc_input& in, const ctcspeech_ctc_output& out, const BatchMemory& memory) {
  double reduced = 0;  // in the order of the batch, whoever computed what
  for (int64_t n = 0; n < in.batch; ++n) {
    const int64_t L = read_index(in.target_lengths, in.index_type, n);
    reduced += memory.losses[n] * gradient_weight(out.reduction, in.batch, L);
    if (out.losses) static_cast<Real*>(out.losses)[n] = static_cast<Real>(memory.losses[n]);
  }
  if (out.reduced) *static_cast<Real*>(out.reduced) = static_cast<Real>(reduced);
}

}  // namespace
}  // namespace ctcspeech

using namespace ctcspeech;

extern "C" ctcspeech_status ctcspeech_ctc_check(const ctcspeech_ctc_input* in, int64_t* item,
                                                int64_t* position) {
  int64_t ignored;
  if (!item) item = &ignored;
  if (!position) position = &ignored;
  *item = *position = 0;
  if (!in) return CTCSPEECH_BAD_ARGUMENT;
  if (const auto status = check_sizes(*in)) return status;
  int64_t concatenated = 0;
  for (int64_t n = 0; n < in->batch; ++n) {
    const UtteranceShape one = shape_of(*in, n, concatenated);
    *item = n;
    if (const auto status = check_item(*in, one, position)) return status;
    concatenated += one.L;
  }
  *item = 0;
  return CTCSPEECH_OK;
}

extern "C" size_t ctcspeech_ctc_workspace(const ctcspeech_ctc_input* in,
                                          const ctcspeech_ctc_output* out,
                                          const ctcspeech_ctc_where* where) {
#ifdef CTCSPEECH_CUDA
  if (in && out && where && where->device == CTCSPEECH_CUDA_DEVICE)
    return check_cuda(*in, *out) ? 0 : cuda_workspace(*in, *out, *where);
#endif
  if (!out || !where || check_where(*where) || ctcspeech_ctc_check(in, nullptr, nullptr)) return 0;
  return BatchMemory(*in, out->gradient != nullptr, *where, nullptr).total_bytes;
}

extern "C" ctcspeech_status ctcspeech_ctc_loss(const ctcspeech_ctc_input* in,
                                               const ctcspeech_ctc_output* out,
                                               const ctcspeech_ctc_where* where) {
  if (!in || !out || !where) return CTCSPEECH_BAD_ARGUMENT;
#ifdef CTCSPEECH_CUDA
  if (where->device == CTCSPEECH_CUDA_DEVICE) {
    const auto status = check_cuda(*in, *out);
    return status ? status : cuda_loss(*in, *out, *where);
  }
#endif
  if (const auto status = check_where(*where)) return status;
  if (const auto status = ctcspeech_ctc_check(in, nullptr, nullptr)) return status;
  const BatchMemory memory(*in, out->gradient != nullptr, *where, where->workspace);
  if (!where->workspace || where->workspace_bytes < memory.total_bytes)
    return CTCSPEECH_SMALL_WORKSPACE;
  read_labels(*in, memory);
  switch (in->type) {
    case CTCSPEECH_FLOAT64: compute_batch<double>(*in, *out, *where, memory); break;
    case CTCSPEECH_FLOAT16: compute_batch<Half>(*in, *out, *where, memory); break;
    case CTCSPEECH_BFLOAT16: compute_batch<BFloat16>(*in, *out, *where, memory); break;
    default: compute_batch<float>(*in, *out, *where, memory);
  }
  if (in->type == CTCSPEECH_FLOAT64)
    write_losses<double>(*in, *out, memory);
  else
    write_losses<float>(*in, *out, memory);
  return CTCSPEECH_OK;
}

namespace {

template <class Element>
void posteriors_of(const ctcspeech_ctc_input& in, double* gamma, int64_t stride_n, int64_t stride_t,
                   const BatchMemory& memory) {
  parallel_for(in.batch, memory.workers, [&](int64_t i, int worker) {
    const UtteranceShape& item = memory.shapes[i];
    const auto u = get_utterance<Element>(in, item, memory.labels + item.first_label);
    reference_loss(u, memory.scratch + memory.scratch_bytes * worker, gamma + item.n * stride_n,
                   stride_t);
  });
}

}  // namespace

extern "C" ctcspeech_status ctcspeech_ctc_posteriors(const ctcspeech_ctc_input* in, double* gamma,
                                                     int64_t stride_n, int64_t stride_t,
                                                     const ctcspeech_ctc_where* where) {
  if (!gamma || !where) return CTCSPEECH_BAD_ARGUMENT;
  if (const auto status = check_where(*where)) return status;
  if (const auto status = ctcspeech_ctc_check(in, nullptr, nullptr)) return status;
  const BatchMemory memory(*in, true, *where, where->workspace);
  if (!where->workspace || where->workspace_bytes < memory.total_bytes)
    return CTCSPEECH_SMALL_WORKSPACE;
  read_labels(*in, memory);
  switch (in->type) {
    case CTCSPEECH_FLOAT64: posteriors_of<double>(*in, gamma, stride_n, stride_t, memory); break;
    case CTCSPEECH_FLOAT16: posteriors_of<Half>(*in, gamma, stride_n, stride_t, memory); break;
    case CTCSPEECH_BFLOAT16: posteriors_of<BFloat16>(*in, gamma, stride_n, stride_t, memory); break;
    default: posteriors_of<float>(*in, gamma, stride_n, stride_t, memory);
  }
  return CTCSPEECH_OK;
}
