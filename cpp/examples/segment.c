/* The C interface: open a bundle, label slices of a phantom, print how much each class covers.
 *
 *     segment_c BUNDLE [DEVICE]
 */
#include <autosam.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 4, HEIGHT = 96, WIDTH = 80 };

/* A bright disc that grows from slice to slice, as a scanner might give it: 16 bits. */
static void draw(int16_t* slices) {
  for (int b = 0; b < BATCH; ++b) {
    for (int y = 0; y < HEIGHT; ++y) {
      for (int x = 0; x < WIDTH; ++x) {
        const int dy = y - HEIGHT / 2;
        const int dx = x - WIDTH / 2;
        const int radius = 10 + 5 * b;
        slices[(b * HEIGHT + y) * WIDTH + x] = dy * dy + dx * dx < radius * radius ? 900 : 20;
      }
    }
  }
}

static int fail(const char* what, autosam_status status) {
  fprintf(stderr, "%s: %s: %s\n", what, autosam_status_name(status), autosam_last_error());
  return 1;
}

static int print_classes(const autosam_session* session, const uint8_t* labels) {
  size_t counts[256] = {0};
  autosam_info info;
  memset(&info, 0, sizeof info);
  info.struct_size = sizeof info;
  autosam_status status = autosam_session_info(session, &info);
  if (status != AUTOSAM_OK) return fail("info", status);
  printf("%s on %s in %s: %s\n", info.name, info.device, info.precision, info.reason);
  for (size_t i = 0; i < (size_t)BATCH * HEIGHT * WIDTH; ++i) ++counts[labels[i]];
  for (int32_t label = 0; label < info.num_classes; ++label) {
    const char* name = NULL;
    status = autosam_session_class(session, label, &name, NULL);
    if (status != AUTOSAM_OK) return fail("class", status);
    printf("%3" PRId32 " %-16s %8zu pixels\n", label, name, counts[label]);
  }
  return 0;
}

int main(int argc, char** argv) {
  if (argc < 2 || argc > 3) {
    fprintf(stderr, "usage: %s BUNDLE [DEVICE]\n", argv[0]);
    return 2;
  }
  autosam_options options;
  autosam_options_init(&options);
  if (argc == 3) options.device = argv[2];

  autosam_session* session = NULL;
  autosam_status status = autosam_session_create(argv[1], &options, &session);
  if (status != AUTOSAM_OK) return fail("open", status);

  int16_t* slices = malloc(sizeof *slices * BATCH * HEIGHT * WIDTH);
  uint8_t* labels = malloc((size_t)BATCH * HEIGHT * WIDTH);
  int result = 1;
  if (slices != NULL && labels != NULL) {
    draw(slices);
    const autosam_tensor in = {
        slices, AUTOSAM_INT16, AUTOSAM_HOST, 0, 3, {BATCH, HEIGHT, WIDTH, 0}, {0, 0, 0, 0}};
    const autosam_tensor out = {
        labels, AUTOSAM_UINT8, AUTOSAM_HOST, 0, 3, {BATCH, HEIGHT, WIDTH, 0}, {0, 0, 0, 0}};
    status = autosam_run(session, &in, &out, NULL, NULL);
    result = status == AUTOSAM_OK ? print_classes(session, labels) : fail("run", status);
  }
  free(labels);
  free(slices);
  autosam_session_destroy(session);
  return result;
}
