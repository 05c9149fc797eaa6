// Python's way to the CTC loss on the GPU, and to the same kernels run on the host for the tests.
// ctcspeech/_ctc_cuda.py passes addresses; the workspace is a tensor of its own.
#include "bindings/bindings.h"

#include <nanobind/stl/string.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>

#include "ctc/ctc.h"
#include "ctc/cuda/cuda_loss.h"

namespace nb = nanobind;

namespace ctcspeech {
namespace {

// Problem.arguments() of ctcspeech/_ctc_arguments.py
ctcspeech_ctc_input make_input(const nb::tuple& a) {
  const auto pointer = [&](int i) { return reinterpret_cast<const void*>(nb::cast<uintptr_t>(a[i])); };
  const auto integer = [&](int i) { return nb::cast<int64_t>(a[i]); };
  ctcspeech_ctc_input in{};
  in.logits = pointer(0);
  in.type = static_cast<int32_t>(integer(1));
  in.frames = integer(2);
  in.batch = integer(3);
  in.classes = integer(4);
  in.frame_stride = integer(5);
  in.batch_stride = integer(6);
  in.targets = pointer(7);
  in.input_lengths = pointer(8);
  in.target_lengths = pointer(9);
  in.index_type = static_cast<int32_t>(integer(10));
  in.target_stride = integer(11);
  in.max_target_length = integer(12);
  in.blank = integer(13);
  in.allow_wildcard = nb::cast<bool>(a[14]);
  in.wildcard_penalty = nb::cast<double>(a[15]);
  in.delay_penalty = nb::cast<double>(a[16]);
  return in;
}

// (losses, reduced, gradient, its frame stride, its batch stride, reduction, zero_infinity)
ctcspeech_ctc_output make_output(const nb::tuple& a) {
  const auto pointer = [&](int i) { return reinterpret_cast<void*>(nb::cast<uintptr_t>(a[i])); };
  ctcspeech_ctc_output out{};
  out.losses = pointer(0);
  out.reduced = pointer(1);
  out.gradient = pointer(2);
  out.gradient_frame_stride = nb::cast<int64_t>(a[3]);
  out.gradient_batch_stride = nb::cast<int64_t>(a[4]);
  out.reduction = nb::cast<int32_t>(a[5]);
  out.zero_infinity = nb::cast<bool>(a[6]);
  return out;
}

// None, or (status, item, position) of the first wrong length or label, all of them on the host.
nb::object check(const nb::tuple& input) {
  const auto in = make_input(input);
  int64_t item, position;
  const auto status = ctcspeech_ctc_check(&in, &item, &position);
  if (status == CTCSPEECH_OK) return nb::none();
  return nb::make_tuple(static_cast<int>(status), item, position);
}

#ifdef CTCSPEECH_CUDA
ctcspeech_ctc_where on_device(int device, uintptr_t stream, int64_t longest) {
  ctcspeech_ctc_where where{};
  where.device = CTCSPEECH_CUDA_DEVICE;
  where.device_index = device;
  where.stream = reinterpret_cast<void*>(stream);
  where.longest_target = longest;
  return where;
}

void require_good(ctcspeech_status status) {
  if (status == CTCSPEECH_OK) return;
  std::string text = "the CTC kernels failed with status " + std::to_string(status);
  if (status == CTCSPEECH_DEVICE_ERROR) text = std::string("the CTC kernels failed: ") + cuda_error();
  throw std::runtime_error(text);
}

size_t workspace(const nb::tuple& input, const nb::tuple& output, int device, int64_t longest) {
  const auto in = make_input(input);
  const auto out = make_output(output);
  const auto where = on_device(device, 0, longest);
  const size_t bytes = ctcspeech_ctc_workspace(&in, &out, &where);
  if (bytes == 0) require_good(CTCSPEECH_DEVICE_ERROR);
  return bytes;
}

void loss(const nb::tuple& input, const nb::tuple& output, int device, int64_t longest,
          uintptr_t stream, uintptr_t memory, size_t bytes) {
  const auto in = make_input(input);
  const auto out = make_output(output);
  auto where = on_device(device, stream, longest);
  where.workspace = reinterpret_cast<void*>(memory);
  where.workspace_bytes = bytes;
  ctcspeech_status status;
  {
    nb::gil_scoped_release release;
    status = ctcspeech_ctc_loss(&in, &out, &where);
  }
  require_good(status);
}

void scale(const nb::tuple& input, const nb::tuple& output, uintptr_t factors, bool single,
           int device, uintptr_t stream) {
  const auto in = make_input(input);
  const auto out = make_output(output);
  const auto where = on_device(device, stream, 0);
  nb::gil_scoped_release release;
  require_good(cuda_scale(in, out, where, reinterpret_cast<const void*>(factors), single));
}
#endif

struct Free {
  void operator()(void* p) const { std::free(p); }
};

// Returns the bytes of workspace that it took.
size_t serial(const nb::tuple& input, const nb::tuple& output, int64_t longest, int order,
              size_t shared_limit) {
  const auto in = make_input(input);
  const auto out = make_output(output);
  ctcspeech_ctc_where where{};
  where.longest_target = longest;
  const SerialOptions options{order, shared_limit};
  where.workspace_bytes = serial_workspace(in, out, where, options);
  const std::unique_ptr<void, Free> memory(
      std::aligned_alloc(64, (where.workspace_bytes + 127) & ~size_t{63}));
  if (!memory) throw std::bad_alloc();
  std::memset(memory.get(), 0xff, where.workspace_bytes);
  where.workspace = memory.get();
  nb::gil_scoped_release release;
  serial_loss(in, out, where, options);
  return where.workspace_bytes;
}

void serial_scaling(const nb::tuple& input, const nb::tuple& output, uintptr_t factors, bool single,
                    int order) {
  serial_scale(make_input(input), make_output(output), reinterpret_cast<const void*>(factors),
               single, SerialOptions{order, 0});
}

}  // namespace

void bind_ctc_cuda(nb::module_& m) {
#ifdef CTCSPEECH_CUDA
  m.def("ctc_cuda_workspace", &workspace);
  m.def("ctc_cuda_loss", &loss);
  m.def("ctc_cuda_scale", &scale);
  m.def("cuda_architectures", [] { return std::string(CTCSPEECH_CUDA_ARCHITECTURES); });
#else
  m.def("cuda_architectures", [] { return std::string(); });
#endif
  m.def("ctc_check", &check);
  m.def("ctc_serial_loss", &serial);
  m.def("ctc_serial_scale", &serial_scaling);
}

}  // namespace ctcspeech
