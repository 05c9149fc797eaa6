#define CTCSPEECH_GRU_WIDTH 8
#define CTCSPEECH_GRU_ROWS 4
#include "gru/gru_kernel.h"

namespace ctcspeech {
extern const GruKernels kGruAvx2;
const GruKernels kGruAvx2 = kKernels;
}  // namespace ctcspeech
