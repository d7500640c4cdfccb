/* Prints the class of an image: classify net.pj image.pgm. The image is a binary PGM (P5, 8 bits) of the network's
 * size, or raw bytes [channels, height, width]. */
#include <picojoule/picojoule.h>
#include <stdio.h>
#include <stdlib.h>

static int fail(const char *what, const char *why) {
  fprintf(stderr, "classify: %s: %s\n", what, why);
  return 1;
}

int main(int count, char **words) {
  pj_model *model = NULL;
  pj_edge in, out;
  if (count != 3) return fail("use", "classify net.pj image.pgm");
  if (pj_load(words[1], NULL, &model) != PJ_OK) return fail("load", pj_last_error());
  if (pj_describe_input(model, 0, &in) || pj_describe_output(model, 0, &out)) return fail("describe", pj_last_error());
  if (in.steps) return fail(in.name, "this example takes still images");

  unsigned char *pixels = malloc((size_t)in.count);
  float *scaled = malloc((size_t)in.count * sizeof *scaled);
  double *scores = malloc((size_t)out.count * sizeof *scores);
  FILE *file = fopen(words[2], "rb");
  int width, height, most;
  if (!pixels || !scaled || !scores || !file) return fail(words[2], "cannot be opened");
  if (fscanf(file, "P5 %d %d %d", &width, &height, &most) == 3) fgetc(file); /* one space ends the head */
  else rewind(file);
  if (fread(pixels, 1, (size_t)in.count, file) != (size_t)in.count) return fail(words[2], "is too small for the network");
  fclose(file);

  int64_t channel = in.rank ? in.row / in.shape[0] : 1; /* pixels of one channel */
  for (int64_t i = 0; i < in.count; ++i) {
    double mean, deviation;
    pj_pixel_scale(model, (size_t)(i / channel), &mean, &deviation);
    scaled[i] = (float)((pixels[i] / 255.0 - mean) / deviation);
  }
  pj_input data = {scaled, PJ_F32, (size_t)in.count};
  pj_output result = {scores, PJ_F64, (size_t)out.count};
  if (in.type == PJ_U8) data.data = pixels, data.type = PJ_U8; /* the network reads bytes itself */
  if (pj_run(model, 1, &data, 1, &result, 1) != PJ_OK) return fail("run", pj_last_error());

  size_t best = 0;
  for (size_t i = 1; i < (size_t)out.count; ++i)
    if (scores[i] > scores[best]) best = i;
  printf("%s (%g)\n", pj_class(model, best) ? pj_class(model, best) : "class without a name", scores[best]);
  free(pixels), free(scaled), free(scores);
  pj_free(model);
  return 0;
}
