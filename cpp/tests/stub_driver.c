/* A CUDA driver that is there and has STUB_DEVICES devices, for tests without a GPU. */
#ifndef STUB_DEVICES
#define STUB_DEVICES 0
#endif

int cuInit(unsigned flags);
int cuInit(unsigned flags) {
  (void)flags;
  return STUB_DEVICES > 0 ? 0 : 100; /* CUDA_ERROR_NO_DEVICE */
}

int cuDeviceGetCount(int* count);
int cuDeviceGetCount(int* count) {
  *count = STUB_DEVICES;
  return 0;
}
