/* picojoule.h - run packed spiking networks (.pj files) from C. No Python, C99, thread-safe.
 *
 *     pj_model *model;
 *     if (pj_load("net.pj", NULL, &model) != PJ_OK) { puts(pj_last_error()); return 1; }
 *     float image[64]; int64_t scores[10];
 *     pj_input  in  = {image, PJ_F32, 64};
 *     pj_output out = {scores, PJ_I64, 10};
 *     pj_run(model, 1, &in, 1, &out, 1);
 *     pj_free(model);
 *
 * Every function that can fail returns a pj_status; pj_last_error() then says what was wrong, in the thread that
 * called. Arrays are in C order. A model may be used by any number of threads at once; a stream by one at a time.
 */
#ifndef PICOJOULE_H
#define PICOJOULE_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define PJ_API
#elif defined(__GNUC__)
#define PJ_API __attribute__((visibility("default")))
#else
#define PJ_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Number of this interface. Structures only grow at their end and status numbers stay; where that is not
 * possible the number is raised. pj_abi() gives the number of the library: compare before anything else. */
#define PJ_ABI 1

typedef enum pj_status {
  PJ_OK = 0,
  PJ_ERROR_ARGUMENT = 1,   /* a null pointer, a wrong size, an unknown name: the caller's code is wrong */
  PJ_ERROR_IO = 2,         /* the file cannot be opened or read, or changed behind a mapping */
  PJ_ERROR_FORMAT = 3,     /* not a packed file, or a damaged one; the message names the field */
  PJ_ERROR_VERSION = 4,    /* a packed file of another format version */
  PJ_ERROR_UNSUPPORTED = 5,/* a sound file that the engine refuses, or an instruction set that is not here */
  PJ_ERROR_INPUT = 6,      /* data that the kind of the input does not allow, such as half a spike */
  PJ_ERROR_NONFINITE = 7,  /* NaN or infinity in the data */
  PJ_ERROR_STREAM = 8,     /* the network needs later steps, or the proven number of steps is used up */
  PJ_ERROR_MEMORY = 9,     /* out of memory */
  PJ_ERROR_INTERNAL = 10   /* a fault of the library; please report the message */
} pj_status;

/* Element types of arrays. */
typedef enum pj_type { PJ_I8 = 0, PJ_I16 = 1, PJ_I32 = 2, PJ_I64 = 3, PJ_U8 = 4, PJ_F32 = 5, PJ_F64 = 6 } pj_type;

/* What the values of an edge are. */
typedef enum pj_kind {
  PJ_BINARY = 0,  /* 0, 1 */
  PJ_TERNARY = 1, /* -1, 0, 1 */
  PJ_INTEGER = 2, /* spike counts 0..high */
  PJ_TIME = 3,    /* one spike a neuron, its step; high: silent */
  PJ_FIXED = 4    /* integer * 2^-frac */
} pj_kind;

typedef struct pj_model pj_model;
typedef struct pj_stream pj_stream;

/* How to load. Fill with pj_options_init, then change what you need. */
typedef struct pj_options {
  size_t size;       /* sizeof(pj_options), set by pj_options_init */
  int threads;       /* most threads of one call, 1 by default */
  const char *isa;   /* instruction set, "auto" by default; others: pj_isa */
  int map;           /* 1 (default): the file is mapped; 0: it is copied, and may change or vanish afterwards */
  int spin;          /* 1 (default): workers poll briefly before they sleep */
  int64_t max_bytes; /* largest working memory of one sample, 4 GiB by default */
  const char *mode;  /* how threads share the work: "auto", "throughput" (whole samples), "latency" (rows of one) */
  int table;         /* 1 (default): pj_load takes the kernels that `pj bench --tune` measured here, FILE.tune.json */
} pj_options;

/* An input or output. Pointers live as long as the model. */
typedef struct pj_edge {
  const char *name;
  pj_kind kind;
  int64_t low, high;    /* integers on the edge */
  int frac;             /* value = integer * 2^-frac */
  double scale;         /* 2^-frac */
  int64_t steps;        /* T, or 0: one row a sample */
  size_t rank;          /* axes of one row */
  const int64_t *shape; /* extents of one row */
  int64_t row;          /* elements of one row, the product of shape */
  int64_t count;        /* elements of one sample: row * max(steps, 1) */
  pj_type type;         /* outputs: PJ_I64. inputs: PJ_U8 is the only type taken where the net reads bytes; else
                           PJ_F32 for fixed edges and PJ_I8 for spikes are natural, and every type is taken */
} pj_edge;

/* Data of one input: [batch, shape], or [batch, steps, shape] for an edge with steps. Real values are rounded to the
 * edge's grid; integers of a fixed edge are real values too. `count` is the number of elements. */
typedef struct pj_input {
  const void *data;
  pj_type type;
  size_t count;
} pj_input;

/* Where one output goes, laid out as inputs are. PJ_I64: exact integers; PJ_F64: integer * scale. */
typedef struct pj_output {
  void *data;
  pj_type type;
  size_t count;
} pj_output;

/* What a loaded model is. */
typedef struct pj_info {
  size_t inputs, outputs, nodes, classes;
  int64_t steps;          /* T, 0 when the net has no time */
  int64_t payload_bytes;  /* all constants in the file */
  int64_t constant_bytes; /* the same as the kernels hold them, private to the process */
  int64_t arena_bytes;    /* working memory of one running sample */
  int64_t stream_limit;   /* steps for which a stream is proven exact; 0: the net cannot be streamed */
  const char *isa;        /* instruction set in use */
  const char *card;       /* JSON text that the author packed with the net */
} pj_info;

/* -- the library */
PJ_API int pj_abi(void);                    /* PJ_ABI of the library */
PJ_API const char *pj_version(void);        /* such as "0.1.0" */
PJ_API const char *pj_isa(size_t i);        /* instruction sets of this processor, narrowest first; NULL at the end */
PJ_API const char *pj_last_error(void);     /* of the calling thread; valid until its next failing call */
PJ_API const char *pj_status_text(pj_status status); /* a few words */

/* -- models */
PJ_API void pj_options_init(pj_options *options);
/* Loads a file. `options` may be NULL. On failure *model is NULL. */
PJ_API pj_status pj_load(const char *path, const pj_options *options, pj_model **model);
/* Loads the bytes of a file; they are copied and may be freed afterwards. */
PJ_API pj_status pj_load_memory(const void *data, size_t size, const pj_options *options, pj_model **model);
/* Frees a model, also NULL. Streams that are open go on working until they are closed. */
PJ_API void pj_free(pj_model *model);
PJ_API pj_status pj_describe(const pj_model *model, pj_info *info);
PJ_API pj_status pj_describe_input(const pj_model *model, size_t i, pj_edge *edge);
PJ_API pj_status pj_describe_output(const pj_model *model, size_t i, pj_edge *edge);
/* What became of the table of measured kernels beside the file: applied, or ignored and why; "" without one. It can
 * only choose among kernels of equal results. */
PJ_API const char *pj_tuned(const pj_model *model);
/* Name of class i on the card, or NULL. */
PJ_API const char *pj_class(const pj_model *model, size_t i);
/* Mean and deviation of pixels in 0..1 that the card gives for a channel; 0 and 1 when it gives none. */
PJ_API pj_status pj_pixel_scale(const pj_model *model, size_t channel, double *mean, double *deviation);

/* Runs a batch. Inputs and outputs come in the order of pj_describe_*; the result is the same for any number of
 * threads and any instruction set. Nothing is written outside the outputs; on failure their content is undefined. */
PJ_API pj_status pj_run(const pj_model *model, size_t batch, const pj_input *inputs, size_t n_inputs,
                        const pj_output *outputs, size_t n_outputs);

/* -- streams: the sequence arrives in chunks of any number of steps, with the bits of the whole sequence */
/* Opens a stream of `batch` sequences side by side. Any number may be open; threads may step different streams. */
PJ_API pj_status pj_stream_open(const pj_model *model, size_t batch, pj_stream **stream);
/* The next `steps` >= 1 steps: timed inputs are [batch, steps, shape], others [batch, shape]; so are outputs, those
 * behind a readout hold its value after the newest step. After a failure the stream must be reset. */
PJ_API pj_status pj_stream_step(pj_stream *stream, size_t steps, const pj_input *inputs, size_t n_inputs,
                                const pj_output *outputs, size_t n_outputs);
PJ_API pj_status pj_stream_reset(pj_stream *stream);      /* back to rest */
PJ_API int64_t pj_stream_position(const pj_stream *stream); /* steps seen */
PJ_API void pj_stream_close(pj_stream *stream);           /* also NULL */

#ifdef __cplusplus
}
#endif
#endif
