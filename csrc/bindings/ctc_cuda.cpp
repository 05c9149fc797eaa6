// Python's way to the CTC loss on the GPU, and to the same kernels run on the host for the tests.
// ctcspeech/ctc/cuda.py passes addresses; the workspace is a tensor of its own.
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

using Input = ctcspeech_ctc_input;
using Output = ctcspeech_ctc_output;

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

size_t workspace(const Input& in, const Output& out, int device, int64_t longest) {
  const auto where = on_device(device, 0, longest);
  const size_t bytes = ctcspeech_ctc_workspace(&in, &out, &where);
  if (bytes == 0) require_good(CTCSPEECH_DEVICE_ERROR);
  return bytes;
}

void loss(const Input& in, const Output& out, int device, int64_t longest,
          uintptr_t stream, uintptr_t memory, size_t bytes) {
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

void scale(const Input& in, const Output& out, uintptr_t factors, bool single,
           int device, uintptr_t stream) {
  const auto where = on_device(device, stream, 0);
  nb::gil_scoped_release release;
  require_good(cuda_scale(in, out, where, reinterpret_cast<const void*>(factors), single));
}
#endif

struct Free {
  void operator()(void* p) const { std::free(p); }
};

// Returns the bytes of workspace that it took.
size_t loss_on_host(const Input& in, const Output& out, int64_t longest, int order,
                    size_t shared_limit) {
  ctcspeech_ctc_where where{};
  where.longest_target = longest;
  const OnHostOptions options{order, shared_limit};
  where.workspace_bytes = on_host_workspace(in, out, where, options);
  const std::unique_ptr<void, Free> memory(
      std::aligned_alloc(64, (where.workspace_bytes + 127) & ~size_t{63}));
  if (!memory) throw std::bad_alloc();
  std::memset(memory.get(), 0xff, where.workspace_bytes);
  where.workspace = memory.get();
  nb::gil_scoped_release release;
  on_host_loss(in, out, where, options);
  return where.workspace_bytes;
}

void scale_on_host(const Input& in, const Output& out, uintptr_t factors, bool single,
                   int order) {
  on_host_scale(in, out, reinterpret_cast<const void*>(factors), single, OnHostOptions{order, 0});
}

}  // namespace

void bind_ctc_cuda(nb::module_& m) {
#ifdef CTCSPEECH_CUDA
  m.def("ctc_cuda_workspace", &workspace, nb::arg("input"), nb::arg("output"), nb::arg("device"),
        nb::arg("longest"));
  m.def("ctc_cuda_loss", &loss, nb::arg("input"), nb::arg("output"), nb::arg("device"),
        nb::arg("longest"), nb::arg("stream"), nb::arg("workspace"), nb::arg("size"));
  m.def("ctc_cuda_scale", &scale, nb::arg("input"), nb::arg("output"), nb::arg("factors"),
        nb::arg("single"), nb::arg("device"), nb::arg("stream"));
  m.def("cuda_architectures", [] { return std::string(CTCSPEECH_CUDA_ARCHITECTURES); });
#else
  m.def("cuda_architectures", [] { return std::string(); });
#endif
  m.def("ctc_on_host_loss", &loss_on_host, nb::arg("input"), nb::arg("output"), nb::arg("longest"),
        nb::arg("order"), nb::arg("shared_limit"));
  m.def("ctc_on_host_scale", &scale_on_host, nb::arg("input"), nb::arg("output"),
        nb::arg("factors"), nb::arg("single"), nb::arg("order"));
}

}  // namespace ctcspeech
