// Python's way to ctc.h. ctcspeech/ctc.py has looked at types, shapes and devices and passes addresses
// (a tensor's data_ptr) in place of array objects: importing five arrays would cost more than a short
// utterance's loss. Lengths and labels are checked in the core.
#include "bindings.h"

#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>

#include "ctc.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace nb = nanobind;

namespace ctcspeech {
namespace {

struct Free {
  void operator()(void* p) const { std::free(p); }
};
using Memory = std::unique_ptr<void, Free>;

Memory allocate(size_t bytes) {
  void* p = std::aligned_alloc(64, (bytes + 63) & ~size_t{63});
  if (!p) throw std::bad_alloc();
  return Memory(p);
}

// A workspace for the length of a call. The last one of modest size is kept for the next call, so that
// training does not pay for fresh pages at each step; a second thread calling meanwhile gets its own.
class Workspace {
 public:
  explicit Workspace(size_t bytes) : lock_(mutex(), std::try_to_lock), bytes_(bytes) {
    if (bytes == 0) bytes = 64;
    if (!lock_.owns_lock() || bytes > kKeep) {
      own_ = allocate(bytes);
      return;
    }
    if (kept_bytes() < bytes) {
      kept().reset();
      kept_bytes() = 0;
      kept() = allocate(bytes);
      kept_bytes() = bytes;
    }
  }
  void* get() const { return own_ ? own_.get() : kept().get(); }
  size_t bytes() const { return bytes_; }

 private:
  static constexpr size_t kKeep = size_t{32} << 20;
  static std::mutex& mutex() {
    static std::mutex m;
    return m;
  }
  static Memory& kept() {
    static Memory m;
    return m;
  }
  static size_t& kept_bytes() {
    static size_t bytes = 0;
    return bytes;
  }
  std::unique_lock<std::mutex> lock_;
  size_t bytes_;
  Memory own_;
};

// A large gradient is memory fresh from the system: in pages of 4 kB, getting it takes longer than
// computing what goes in.
void ask_for_huge_pages(void* memory, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr size_t kLarge = size_t{8} << 20, kPage = 4096;
  if (bytes < kLarge) return;
  const auto begin = (reinterpret_cast<uintptr_t>(memory) + kPage - 1) / kPage * kPage;
  const auto end = (reinterpret_cast<uintptr_t>(memory) + bytes) / kPage * kPage;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // a hint: it may fail
#else
  (void)memory, (void)bytes;
#endif
}

const void* address(uintptr_t p) { return reinterpret_cast<const void*>(p); }
void* writable(uintptr_t p) { return reinterpret_cast<void*>(p); }

// What ctcspeech/ctc.py fills in; the members are those of ctcspeech_ctc_input.
ctcspeech_ctc_input make_input(uintptr_t logits, int type, int64_t frames, int64_t batch,
                               int64_t classes, int64_t frame_stride, int64_t batch_stride,
                               uintptr_t targets, uintptr_t input_lengths, uintptr_t target_lengths,
                               int index_type, int64_t target_stride, int64_t max_target_length,
                               int64_t blank, bool allow_wildcard, double wildcard_penalty,
                               double delay_penalty) {
  ctcspeech_ctc_input in{};
  in.logits = address(logits);
  in.type = type;
  in.index_type = index_type;
  in.frames = frames;
  in.batch = batch;
  in.classes = classes;
  in.frame_stride = frame_stride;
  in.batch_stride = batch_stride;
  in.targets = address(targets);
  in.target_stride = target_stride;
  in.max_target_length = max_target_length;
  in.input_lengths = address(input_lengths);
  in.target_lengths = address(target_lengths);
  in.blank = blank;
  in.allow_wildcard = allow_wildcard;
  in.wildcard_penalty = wildcard_penalty;
  in.delay_penalty = delay_penalty;
  return in;
}

// None if all went well, else (status, item, position) for ctc.py to put into words.
nb::object explain(const ctcspeech_ctc_input& in, ctcspeech_status status) {
  if (status == CTCSPEECH_OK) return nb::none();
  int64_t item, position;
  ctcspeech_ctc_check(&in, &item, &position);
  return nb::make_tuple(static_cast<int>(status), item, position);
}

ctcspeech_ctc_where on_cpu(int threads, int isa) {
  ctcspeech_ctc_where where{};
  where.device = CTCSPEECH_CPU;
  where.threads = threads;
  where.isa = isa;
  return where;
}

nb::object loss(uintptr_t logits, int type, int64_t frames, int64_t batch, int64_t classes,
                int64_t frame_stride, int64_t batch_stride, uintptr_t targets,
                uintptr_t input_lengths, uintptr_t target_lengths, int index_type,
                int64_t target_stride, int64_t max_target_length, int64_t blank,
                bool allow_wildcard, double wildcard_penalty, double delay_penalty,
                uintptr_t losses, uintptr_t reduced, uintptr_t gradient,
                int64_t gradient_frame_stride, int64_t gradient_batch_stride, int reduction,
                bool zero_infinity, int threads, int isa, int arithmetic, uintptr_t arithmetic_used) {
  const auto in = make_input(logits, type, frames, batch, classes, frame_stride, batch_stride,
                             targets, input_lengths, target_lengths, index_type, target_stride,
                             max_target_length, blank, allow_wildcard, wildcard_penalty,
                             delay_penalty);
  ctcspeech_ctc_output out{};
  out.losses = writable(losses);
  out.reduced = writable(reduced);
  out.gradient = writable(gradient);
  out.gradient_frame_stride = gradient_frame_stride;
  out.gradient_batch_stride = gradient_batch_stride;
  out.reduction = reduction;
  out.zero_infinity = zero_infinity;
  out.arithmetic = static_cast<int32_t*>(writable(arithmetic_used));
  auto where = on_cpu(threads, isa);
  where.arithmetic = arithmetic;
  ctcspeech_status status;
  {
    nb::gil_scoped_release release;
    where.workspace_bytes = ctcspeech_ctc_workspace(&in, &out, &where);
    const Workspace workspace(where.workspace_bytes);
    where.workspace = workspace.get();
    const size_t item = type == CTCSPEECH_FLOAT64 ? 8 : type == CTCSPEECH_FLOAT32 ? 4 : 2;
    const bool dense = gradient_frame_stride == batch * classes ||
                       gradient_batch_stride == frames * classes;  // as torch.empty gives it
    if (gradient && where.workspace_bytes && dense)
      ask_for_huge_pages(out.gradient, static_cast<size_t>(frames * batch * classes) * item);
    status = ctcspeech_ctc_loss(&in, &out, &where);
  }
  return explain(in, status);
}

nb::object posteriors(uintptr_t logits, int type, int64_t frames, int64_t batch, int64_t classes,
                      int64_t frame_stride, int64_t batch_stride, uintptr_t targets,
                      uintptr_t input_lengths, uintptr_t target_lengths, int index_type,
                      int64_t target_stride, int64_t max_target_length, int64_t blank,
                      bool allow_wildcard, double wildcard_penalty, double delay_penalty,
                      uintptr_t gamma, int64_t stride_n, int64_t stride_t, int threads) {
  const auto in = make_input(logits, type, frames, batch, classes, frame_stride, batch_stride,
                             targets, input_lengths, target_lengths, index_type, target_stride,
                             max_target_length, blank, allow_wildcard, wildcard_penalty,
                             delay_penalty);
  ctcspeech_ctc_output out{};
  out.gradient = writable(gamma);  // only to say that there is a way back
  auto where = on_cpu(threads, -1);
  ctcspeech_status status;
  {
    nb::gil_scoped_release release;
    where.workspace_bytes = ctcspeech_ctc_workspace(&in, &out, &where);
    const Workspace workspace(where.workspace_bytes);
    where.workspace = workspace.get();
    status = ctcspeech_ctc_posteriors(&in, static_cast<double*>(out.gradient), stride_n, stride_t,
                                      &where);
  }
  return explain(in, status);
}

}  // namespace

void bind_ctc(nb::module_& m) {
  m.def("ctc_loss", &loss);
  m.def("ctc_posteriors", &posteriors);
}

}  // namespace ctcspeech
