// Compiled without flags: SSE2 on x86-64.
#include "base/vec_portable.h"

#include "gru/gru_kernel.h"

namespace ctcspeech {

GruKernels gru_baseline() { return make_gru_kernels<PortableFloat, 4>(); }

}  // namespace ctcspeech
