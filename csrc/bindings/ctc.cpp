// Python's way to ctc/ctc.h. ctcspeech/ctc/ has looked at types, shapes and devices and passes addresses (a
// tensor's data_ptr) in place of array objects: importing five arrays would cost more than a short
// utterance's loss. Lengths and labels are checked in the core.
#include "bindings/bindings.h"

#include <nanobind/ndarray.h>

#include <cstring>

#include "ctc/ctc.h"
#include "base/host_memory.h"

namespace nb = nanobind;

namespace ctcspeech {
namespace {

const void* address(uintptr_t p) { return reinterpret_cast<const void*>(p); }
void* writable(uintptr_t p) { return reinterpret_cast<void*>(p); }

// The members are those of ctcspeech_ctc_input, in the order of Problem.input() (ctcspeech/ctc/problem.py).
void make_input(ctcspeech_ctc_input* in, uintptr_t logits, int type, int64_t frames, int64_t batch,
                int64_t classes, int64_t frame_stride, int64_t batch_stride, uintptr_t targets,
                uintptr_t input_lengths, uintptr_t target_lengths, int index_type,
                int64_t target_stride, int64_t max_target_length, int64_t blank,
                bool allow_wildcard, double wildcard_penalty, double delay_penalty) {
  *in = {};
  in->logits = address(logits);
  in->type = type;
  in->index_type = index_type;
  in->frames = frames;
  in->batch = batch;
  in->classes = classes;
  in->frame_stride = frame_stride;
  in->batch_stride = batch_stride;
  in->targets = address(targets);
  in->target_stride = target_stride;
  in->max_target_length = max_target_length;
  in->input_lengths = address(input_lengths);
  in->target_lengths = address(target_lengths);
  in->blank = blank;
  in->allow_wildcard = allow_wildcard;
  in->wildcard_penalty = wildcard_penalty;
  in->delay_penalty = delay_penalty;
}

void make_output(ctcspeech_ctc_output* out, uintptr_t losses, uintptr_t reduced, uintptr_t gradient,
                 int64_t gradient_frame_stride, int64_t gradient_batch_stride, int reduction,
                 bool zero_infinity, uintptr_t arithmetic) {
  *out = {};
  out->losses = writable(losses);
  out->reduced = writable(reduced);
  out->gradient = writable(gradient);
  out->gradient_frame_stride = gradient_frame_stride;
  out->gradient_batch_stride = gradient_batch_stride;
  out->reduction = reduction;
  out->zero_infinity = zero_infinity;
  out->arithmetic = static_cast<int32_t*>(writable(arithmetic));
}

// None if all went well (or what was asked for), else (status, item, position) for problem.py to put into words.
nb::object explain(const ctcspeech_ctc_input& in, ctcspeech_status status) {
  if (status == CTCSPEECH_OK) return nb::none();
  int64_t item, position;
  ctcspeech_ctc_check(&in, &item, &position);
  return nb::make_tuple(status, item, position);
}

ctcspeech_ctc_where on_cpu(int threads, int isa) {
  ctcspeech_ctc_where where{};
  where.device = CTCSPEECH_CPU;
  where.threads = threads;
  where.isa = isa;
  return where;
}

// The labels and lengths as they are now, one array after the other: the caller may change theirs.
nb::bytes copy_of_labels(const ctcspeech_ctc_input& in) {
  const size_t item = in.index_type == CTCSPEECH_INT32 ? 4 : 8;
  const bool padded = in.target_stride != CTCSPEECH_CONCATENATED;
  const size_t lengths = static_cast<size_t>(in.batch) * item;
  const size_t labels = static_cast<size_t>(in.max_target_length) * (padded ? lengths : item);
  PyObject* bytes =
      PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(labels + 2 * lengths));
  if (!bytes) throw nb::python_error();
  char* out = PyBytes_AsString(bytes);
  if (labels) std::memcpy(out, in.targets, labels);
  if (lengths) std::memcpy(out + labels, in.input_lengths, lengths);
  if (lengths) std::memcpy(out + labels + lengths, in.target_lengths, lengths);
  return nb::steal<nb::bytes>(bytes);
}

nb::object loss(const ctcspeech_ctc_input& in, const ctcspeech_ctc_output& out, int threads, int isa,
                int arithmetic, bool keep_labels) {
  auto where = on_cpu(threads, isa);
  where.arithmetic = arithmetic;
  ctcspeech_status status;
  {
    nb::gil_scoped_release release;
    where.workspace_bytes = ctcspeech_ctc_workspace(&in, &out, &where);
    const HostWorkspace workspace(where.workspace_bytes);
    where.workspace = workspace.get();
    status = ctcspeech_ctc_loss(&in, &out, &where);
  }
  if (keep_labels && status == CTCSPEECH_OK) return copy_of_labels(in);
  return explain(in, status);
}

nb::object posteriors(const ctcspeech_ctc_input& in, uintptr_t gamma, int64_t stride_n,
                      int64_t stride_t, int threads) {
  ctcspeech_ctc_output out{};
  out.gradient = writable(gamma);  // only to say that there is a way back
  auto where = on_cpu(threads, -1);
  ctcspeech_status status;
  {
    nb::gil_scoped_release release;
    where.workspace_bytes = ctcspeech_ctc_workspace(&in, &out, &where);
    const HostWorkspace workspace(where.workspace_bytes);
    where.workspace = workspace.get();
    status = ctcspeech_ctc_posteriors(&in, static_cast<double*>(out.gradient), stride_n, stride_t,
                                      &where);
  }
  return explain(in, status);
}

// All of them on the host.
nb::object check(const ctcspeech_ctc_input& in) {
  return explain(in, ctcspeech_ctc_check(&in, nullptr, nullptr));
}

// Bytes for a large gradient, as a NumPy array that owns them.
nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>> large_block(size_t bytes) {
  LargeBlock* block = LargeBlock::take(bytes);
  nb::capsule owner(block, [](void* p) noexcept { static_cast<LargeBlock*>(p)->give_back(); });
  return nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>>(block->get(), {bytes}, owner);
}

}  // namespace

void bind_ctc(nb::module_& m) {
  nb::enum_<ctcspeech_status>(m, "CtcStatus", nb::is_arithmetic(), "ctcspeech_status of ctc/ctc.h.")
      .value("OK", CTCSPEECH_OK)
      .value("BAD_ARGUMENT", CTCSPEECH_BAD_ARGUMENT)
      .value("BAD_BLANK", CTCSPEECH_BAD_BLANK)
      .value("BAD_INPUT_LENGTH", CTCSPEECH_BAD_INPUT_LENGTH)
      .value("BAD_TARGET_LENGTH", CTCSPEECH_BAD_TARGET_LENGTH)
      .value("BAD_TARGET_SUM", CTCSPEECH_BAD_TARGET_SUM)
      .value("BAD_LABEL", CTCSPEECH_BAD_LABEL)
      .value("LABEL_IS_BLANK", CTCSPEECH_LABEL_IS_BLANK)
      .value("SMALL_WORKSPACE", CTCSPEECH_SMALL_WORKSPACE)
      .value("NO_ISA", CTCSPEECH_NO_ISA)
      .value("NO_DEVICE", CTCSPEECH_NO_DEVICE)
      .value("DEVICE_ERROR", CTCSPEECH_DEVICE_ERROR);
  nb::class_<ctcspeech_ctc_input>(m, "CtcInput", "What to compute from: addresses and sizes.")
      .def("__init__", &make_input, nb::arg("logits"), nb::arg("type"), nb::arg("frames"),
           nb::arg("batch"), nb::arg("classes"), nb::arg("frame_stride"), nb::arg("batch_stride"),
           nb::arg("targets"), nb::arg("input_lengths"), nb::arg("target_lengths"),
           nb::arg("index_type"), nb::arg("target_stride"), nb::arg("max_target_length"),
           nb::arg("blank"), nb::arg("allow_wildcard"), nb::arg("wildcard_penalty"),
           nb::arg("delay_penalty"));
  nb::class_<ctcspeech_ctc_output>(m, "CtcOutput", "Where to write: addresses, 0 for none.")
      .def("__init__", &make_output, nb::arg("losses"), nb::arg("reduced"), nb::arg("gradient"),
           nb::arg("gradient_frame_stride"), nb::arg("gradient_batch_stride"),
           nb::arg("reduction"), nb::arg("zero_infinity"), nb::arg("arithmetic") = 0);
  m.def("large_block", &large_block, nb::arg("size"));
  m.def("ctc_loss", &loss, nb::arg("input"), nb::arg("output"), nb::arg("threads"),
        nb::arg("isa"), nb::arg("arithmetic"), nb::arg("keep_labels"),
        nb::sig("def ctc_loss(input: CtcInput, output: CtcOutput, threads: int, isa: int, "
                "arithmetic: int, keep_labels: bool) "
                "-> bytes | tuple[CtcStatus, int, int] | None"),
        "With keep_labels a copy of labels and lengths; on an error the status, item, position.");
  m.def("ctc_posteriors", &posteriors, nb::arg("input"), nb::arg("gamma"), nb::arg("stride_n"),
        nb::arg("stride_t"), nb::arg("threads"),
        nb::sig("def ctc_posteriors(input: CtcInput, gamma: int, stride_n: int, stride_t: int, "
                "threads: int) -> tuple[CtcStatus, int, int] | None"));
  m.def("ctc_check", &check, nb::arg("input"),
        nb::sig("def ctc_check(input: CtcInput) -> tuple[CtcStatus, int, int] | None"),
        "The first wrong length or label, all of them on the host.");
}

}  // namespace ctcspeech
