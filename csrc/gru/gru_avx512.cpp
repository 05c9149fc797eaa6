#define CTCSPEECH_GRU_WIDTH 16
#define CTCSPEECH_GRU_ROWS 8
#include "gru/gru_kernel.h"

namespace ctcspeech {
extern const GruKernels kGruAvx512;
const GruKernels kGruAvx512 = kKernels;
}  // namespace ctcspeech
