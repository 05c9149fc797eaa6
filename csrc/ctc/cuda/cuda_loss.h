// The CTC loss on the GPU (ctc/cuda/cuda_loss.cu), and the same kernels run on the host for the tests
// (ctc/cuda/on_host.cpp). ctc/ctc.cpp has checked the sizes; lengths and labels are looked at by the kernels.
#pragma once

#include "ctc/ctc.h"

namespace ctcspeech {

#ifdef CTCSPEECH_CUDA
size_t cuda_workspace(const ctcspeech_ctc_input& in, const ctcspeech_ctc_output& out,
                      const ctcspeech_ctc_where& where);
ctcspeech_status cuda_loss(const ctcspeech_ctc_input& in, const ctcspeech_ctc_output& out,
                           const ctcspeech_ctc_where& where);

// gradient *= factors, on where.stream. `out` and `in` as of the loss; factors of the losses' type on the
// device, (N) or a single one.
ctcspeech_status cuda_scale(const ctcspeech_ctc_input& in, const ctcspeech_ctc_output& out,
                            const ctcspeech_ctc_where& where, const void* factors, bool single);

// What the CUDA runtime said of the last error on this thread.
const char* cuda_error();
#endif

// The kernels on host memory, one thread after the other.
struct OnHostOptions {
  int order;            // of threads and blocks: 0 ascending, 1 descending, else shuffled by this seed
  size_t shared_limit;  // bytes of shared memory to have
};
size_t on_host_workspace(const ctcspeech_ctc_input& in, const ctcspeech_ctc_output& out,
                         const ctcspeech_ctc_where& where, const OnHostOptions& options);
ctcspeech_status on_host_loss(const ctcspeech_ctc_input& in, const ctcspeech_ctc_output& out,
                              const ctcspeech_ctc_where& where, const OnHostOptions& options);
ctcspeech_status on_host_scale(const ctcspeech_ctc_input& in, const ctcspeech_ctc_output& out,
                               const void* factors, bool single, const OnHostOptions& options);

}  // namespace ctcspeech
