// 64-bit Arm, where NEON is part of the baseline. Empty elsewhere.
#if defined(__aarch64__)
#include "base/vec_neon.h"

#include "gru/gru_kernel.h"

namespace ctcspeech {

GruKernels gru_neon() { return make_gru_kernels<NeonFloat, 4>(); }

}  // namespace ctcspeech
#endif
