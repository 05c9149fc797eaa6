/* The CTC loss and its gradient: plain C, for the CPU and for CUDA alike.
 *
 * Graves, Fernandez, Gomez, Schmidhuber: Connectionist Temporal Classification, ICML 2006.
 *
 *   ctcspeech_ctc_input in = {...};       what to compute from; all memory is the caller's
 *   ctcspeech_ctc_output out = {...};     where to write
 *   ctcspeech_ctc_where where = {...};    device, threads or stream, workspace
 *   ctcspeech_ctc_check(&in, &item, &position);            optional on the CPU: names what is wrong
 *   where.workspace_bytes = ctcspeech_ctc_workspace(&in, &out, &where);
 *   where.workspace = malloc(where.workspace_bytes);
 *   ctcspeech_ctc_loss(&in, &out, &where);
 *
 * T frames, N utterances, C classes with the blank, L labels of an utterance. Emissions are logits or
 * log-probabilities alike: every frame is normalised inside. Nothing here prints or throws. On one thread
 * nothing allocates; more of them are started by the system, which takes memory for each, and where it
 * starts no more of them the work goes on with those there are.
 */
#ifndef CTCSPEECH_CTC_H
#define CTCSPEECH_CTC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ctcspeech_status {
  CTCSPEECH_OK = 0,
  CTCSPEECH_BAD_ARGUMENT = 1,       /* a null pointer, a negative size, an unknown type */
  CTCSPEECH_BAD_BLANK = 2,          /* blank is outside [0, C) */
  CTCSPEECH_BAD_INPUT_LENGTH = 3,   /* input_lengths[item] is outside [0, T] */
  CTCSPEECH_BAD_TARGET_LENGTH = 4,  /* target_lengths[item] is outside [0, max_target_length] */
  CTCSPEECH_BAD_TARGET_SUM = 5,     /* concatenated targets are shorter than the sum of lengths */
  CTCSPEECH_BAD_LABEL = 6,          /* targets[item][position] is outside [0, C) */
  CTCSPEECH_LABEL_IS_BLANK = 7,     /* targets[item][position] is the blank */
  CTCSPEECH_SMALL_WORKSPACE = 8,    /* the workspace is missing or smaller than asked for */
  CTCSPEECH_NO_ISA = 9,             /* the instruction set forced is not available here */
  CTCSPEECH_NO_DEVICE = 10,         /* this build cannot compute there */
  CTCSPEECH_DEVICE_ERROR = 11       /* the CUDA runtime reported an error */
} ctcspeech_status;

typedef enum ctcspeech_type {
  CTCSPEECH_FLOAT32 = 0,
  CTCSPEECH_FLOAT64 = 1,
  CTCSPEECH_FLOAT16 = 2,
  CTCSPEECH_BFLOAT16 = 3,
  CTCSPEECH_INT32 = 4,
  CTCSPEECH_INT64 = 5
} ctcspeech_type;

typedef enum ctcspeech_device { CTCSPEECH_CPU = 0, CTCSPEECH_CUDA_DEVICE = 1 } ctcspeech_device;

/* What the gradient is multiplied by, and what *reduced holds. */
typedef enum ctcspeech_reduction {
  CTCSPEECH_NONE = 0, /* 1; the sum of the losses */
  CTCSPEECH_SUM = 1,  /* 1; the sum of the losses */
  CTCSPEECH_MEAN = 2  /* 1 / (N max(1, L)); the mean of loss / max(1, L), as in torch */
} ctcspeech_reduction;

/* The value of target_stride for targets that stand one after the other without padding. */
#define CTCSPEECH_CONCATENATED (-1)

/* A target value: a stretch of one or more frames of which nothing is known (any class, blank too).
 * Pratap et al.: Star temporal classification, 2022; Cai et al.: W-CTC, ICLR 2022. */
#define CTCSPEECH_WILDCARD (-1)

typedef struct ctcspeech_ctc_input {
  const void* logits;    /* (T, N, C) with the strides below; the classes of a frame are contiguous */
  int32_t type;          /* ctcspeech_type: a floating one */
  int32_t index_type;    /* ctcspeech_type of the three integer arrays: INT32 or INT64 */
  int64_t frames;        /* T */
  int64_t batch;         /* N */
  int64_t classes;       /* C */
  int64_t frame_stride;  /* in elements */
  int64_t batch_stride;  /* in elements */
  const void* targets;   /* labels of utterance n from n * target_stride, or concatenated */
  int64_t target_stride; /* in elements, or CTCSPEECH_CONCATENATED */
  int64_t max_target_length; /* padded: the width; concatenated: how many labels there are in all */
  const void* input_lengths;  /* (N) */
  const void* target_lengths; /* (N) */
  int64_t blank;
  int32_t allow_wildcard; /* 1: CTCSPEECH_WILDCARD is a legal target value */
  double wildcard_penalty; /* a wildcard frame has log-probability -wildcard_penalty */
  /* log-weight delay_penalty * ((T_n - 1) / 2 - t) on entering a label at frame t: emit early.
   * Yao et al.: Delay-penalized CTC implemented based on finite state transducer, Interspeech 2023. */
  double delay_penalty;
} ctcspeech_ctc_input;

typedef struct ctcspeech_ctc_output {
  void* losses;   /* (N) -ln p(target | logits), float64 for float64 logits, else float32 */
  void* reduced;  /* one value of the same type, or NULL */
  void* gradient; /* (T, N, C) of the logits' type, or NULL: loss alone. Zero beyond each length */
  int64_t gradient_frame_stride; /* in elements */
  int64_t gradient_batch_stride;
  int32_t* arithmetic;   /* (N) which kind of number each took, 0 to 3 as below; or NULL */
  int32_t reduction;     /* ctcspeech_reduction */
  int32_t zero_infinity; /* 1: an impossible item has loss 0 in place of +inf */
} ctcspeech_ctc_output;

typedef struct ctcspeech_ctc_where {
  int32_t device;  /* ctcspeech_device */
  int32_t threads; /* CPU: at most so many, the caller among them */
  int32_t isa;     /* CPU: -1 the best here, else force one of base/cpu.h */
  int32_t device_index; /* CUDA */
  int32_t arithmetic; /* the first kind of number to try: 0 float, 1 double, 2 double with an exponent a
                         value, 3 logarithms; each falls back to the next where its range ends */
  void* stream;         /* CUDA: the caller's stream */
  void* workspace;      /* 64-byte aligned, on the device */
  size_t workspace_bytes;
  int64_t longest_target; /* CUDA: no utterance has more labels; 0: not known */
} ctcspeech_ctc_where;

/* Looks at every length and label (host memory). On error *item and *position tell which. */
ctcspeech_status ctcspeech_ctc_check(const ctcspeech_ctc_input* in, int64_t* item, int64_t* position);

/* Bytes of workspace that ctcspeech_ctc_loss needs for this input; 0 for an invalid one. */
size_t ctcspeech_ctc_workspace(const ctcspeech_ctc_input* in, const ctcspeech_ctc_output* out,
                               const ctcspeech_ctc_where* where);

/* Losses, and the gradient with respect to the logits. An impossible item has loss +inf and a zero
 * gradient; NaN or +inf in an utterance makes that utterance NaN and no other. On the CPU the input is
 * checked first and nothing is written if it is wrong. The same bits for any number of threads.
 *
 * On a CUDA device all arrays are device memory; the kernels are put on the stream, and nothing waits,
 * allocates or looks at the values from the host: a call can be captured in a graph. A wrong length or
 * label makes its utterance's loss and gradient NaN (and, concatenated, a wrong target length those of
 * the utterances after it). A log-probability of a frame below -1.8e8 / (T + 2) counts as that (float64
 * logits: -7.8e14 / (T + 2)). `arithmetic`, `threads` and `isa` of where are not looked at. */
ctcspeech_status ctcspeech_ctc_loss(const ctcspeech_ctc_input* in, const ctcspeech_ctc_output* out,
                                    const ctcspeech_ctc_where* where);

/* The occupation gamma[n][t][s] = P(state s at frame t | target, logits) of the S = 2 L + 1 extended
 * labels (even s: blank) at gamma[n * stride_n + t * stride_t + s]; nothing is written beyond the
 * lengths. Host memory, float64 arithmetic, the workspace of a loss with gradient. */
ctcspeech_status ctcspeech_ctc_posteriors(const ctcspeech_ctc_input* in, double* gamma,
                                          int64_t stride_n, int64_t stride_t,
                                          const ctcspeech_ctc_where* where);

#ifdef __cplusplus
}
#endif

#endif
