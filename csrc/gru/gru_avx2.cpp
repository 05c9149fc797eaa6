#include "base/vec_avx2.h"

#include "gru/gru_kernel.h"

namespace ctcspeech {

GruKernels gru_avx2() { return make_gru_kernels<Avx2Float, 4>(); }

}  // namespace ctcspeech
